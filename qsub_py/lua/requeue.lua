-- Run ended tasks again: those of positions first..last whose state is in the mask.
-- KEYS  meta
-- ARGV  job, first, last, mask of state codes ("|4|6|")
-- Returns {'ok', tasks of the first slice}; {'gone'}; {'fate'} when the whole job was given up.
-- Replay: the tasks are pending, which no mask names.
--- @include head job node todo
local j = load(ARGV[1])
if not j then return {'gone'} end
if j.fate ~= 0 then return {'fate'} end
tick()
local a, b = tonumber(ARGV[2]), tonumber(ARGV[3])
local after, n = requeue_slice(j, a, b, ARGV[4])
if after > a and after <= math.min(b, j.cursor - 1) then
  redis.call('RPUSH', P .. 'todo', table.concat({'requeue', j.id, string.format('%.0f', after),
    string.format('%.0f', b), ARGV[4]}, '|'))
end
settle(j)
offer(j)
return {'ok', n}
