-- Run ended tasks again: those of positions first..last whose state is in the mask.
-- KEYS  meta
-- ARGV  job, first, last, mask of state codes ("|4|6|")
-- Returns {'ok', tasks of the first slice}; {'gone'}; {'fate'} when the whole job was given up.
-- Replay: the tasks are pending, which no mask names.
--- @include head job node batch deps todo
local j = load(ARGV[1])
if not j then return {'gone'} end
if j.fate ~= 0 then return {'fate'} end
tick()
local a, b = tonumber(ARGV[2]), tonumber(ARGV[3])
if string.find(ARGV[4], '|' .. CA .. '|', 1, true) then
  -- What was cancelled past the cursor has no byte of its own yet.
  local cut, to = intervals(j.id), j.cursor
  for i = 1, #cut do
    if cut[i][1] <= b and cut[i][2] >= a then to = math.max(to, math.min(cut[i][2], b) + 1) end
  end
  if to > j.cursor then pass(j, to) end
end
local after, n = requeue_slice(j, a, b, ARGV[4])
if after > a and after <= math.min(b, j.cursor - 1) then
  push_todo('requeue', j.id, after, b, ARGV[4])
end
settle(j)
offer(j)
return {'ok', n}
