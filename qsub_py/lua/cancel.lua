-- Cancel a job or a range of its tasks: what waits ends now, what runs is told to end.
-- KEYS  meta
-- ARGV  job, first and last position (-1, -1: the whole job), who
-- Returns {'ok', tasks that were waiting, tasks that run, had ended (0 or 1), node, seq, ...};
--         {'gone'}; {'many'} when 256 separate ranges are cancelled already.
-- Replay: nothing waits any more; holders are told once more, which is harmless.
--- @include head job node batch deps todo

local j = load(ARGV[1])
if not j then return {'gone'} end
if j.ended ~= 0 then return {'ok', 0, 0, 1} end
tick()
local a, b, by = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

-- Positions past the cursor: one interval more, in order and merged.
local function cancel_ahead(from, to)
  local list, merged = intervals(j.id), {}
  list[#list + 1] = {from, to}
  table.sort(list, function(x, y) return x[1] < y[1] end)
  for i = 1, #list do
    local top = merged[#merged]
    if list[i][2] < j.cursor then -- written down long ago
    elseif top and list[i][1] <= top[2] + 1 then top[2] = math.max(top[2], list[i][2])
    else merged[#merged + 1] = {list[i][1], list[i][2]} end
  end
  if #merged > SLICE then return nil end
  local before, after, text = 0, 0, {}
  list = intervals(j.id)
  for i = 1, #list do before = before + math.max(0, list[i][2] - math.max(list[i][1], j.cursor) + 1) end
  for i = 1, #merged do
    after = after + math.max(0, merged[i][2] - math.max(merged[i][1], j.cursor) + 1)
    text[i] = string.format('%.0f-%.0f', merged[i][1], merged[i][2])
  end
  redis.call('HSET', key('j', j.id), 'cx', table.concat(text, ','))
  j.c5 = j.c5 + after - before
  if j.gate == 2 then j.wait = j.wait - after + before end
  if after > before then tell(j, from, to) end
  return after - before
end

if a < 0 then
  local waiting, running = 0, j.c1
  if j.fate == 0 then
    waiting = doom(j, CA)
    redis.call('HSET', key('j', j.id), 'why', 'cancelled by ' .. by)
  end
  bury(j)
  local reply = {'ok', waiting, running, 0}
  local told = order_holders(j.id, cancel_order(j, 0, -1, by))
  for i = 1, #told do reply[#reply + 1] = told[i] end
  settle(j)
  return reply
end

if j.fate ~= 0 then return {'ok', 0, j.c2, 0} end
b = math.min(b, j.n - 1)
local waiting = 0
if b >= math.max(a, j.cursor) then
  waiting = cancel_ahead(math.max(a, j.cursor), b)
  if not waiting then return {'many'} end
end
local after, below, running = cancel_slice(j, a, b)
if after <= math.min(b, j.cursor - 1) then
  push_todo('cancel', j.id, after, b, by)
end
local reply = {'ok', waiting + below, running, 0}
if waiting + below > 0 then notice(j) end
bury(j)
local told = order_holders(j.id, cancel_order(j, a, b, by))
for i = 1, #told do reply[#reply + 1] = told[i] end
settle(j)
return reply
