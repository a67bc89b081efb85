-- Run ended tasks again: those of positions first..last whose state is in the mask.
-- Of a job that was given up as a whole each task first gets the end of its own that it shows; one
-- that was given up for what it waits for is looked at anew.
-- KEYS  meta
-- ARGV  job, first, last, mask of state codes ("|4|6|")
-- Returns {'ok', tasks of the first slice}; {'gone'}; {'fate'} when the whole job was given up, and
--         some of it has not ended yet.
-- Replay: the tasks are pending, which no mask names.
--- @include head job node batch deps todo
local j = load(ARGV[1])
if not j then return {'gone'} end
if j.fate ~= 0 and j.ended == 0 then return {'fate'} end
tick()
local a, b = tonumber(ARGV[2]), tonumber(ARGV[3])
if j.fate == DF then
  if string.find(ARGV[4], '|' .. DF .. '|', 1, true) then
    met[j.id] = j
    rearm(j)
    write_down()
  end
  return {'ok', 0}
elseif j.fate ~= 0 then
  push_todo('lift', j.id, 0, b, string.format('%.0f', a) .. ARGV[4])
  return {'ok', 0}
end
if string.find(ARGV[4], '|' .. CA .. '|', 1, true) then pass_cancelled(j, a, b) end
local after, n = requeue_slice(j, a, b, ARGV[4])
if after > a and after <= math.min(b, j.cursor - 1) then
  push_todo('requeue', j.id, after, b, ARGV[4])
end
settle(j)
offer(j)
return {'ok', n}
