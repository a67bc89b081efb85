-- Cancel a job or a range of its tasks: what waits ends now, what runs is told to end.
-- KEYS  meta
-- ARGV  job, first and last position (-1, -1: the whole job), who
-- Returns {'ok', tasks that were waiting, tasks that run, had ended (0 or 1), node, seq, ...};
--         {'gone'}; {'many'} when 256 separate ranges are cancelled already.
-- Replay: nothing waits any more; holders are told once more, which is harmless.
--- @include head job node batch deps todo ahead

local j = load(ARGV[1])
if not j then return {'gone'} end
if j.ended ~= 0 then return {'ok', 0, 0, 1} end
tick()
local a, b, by = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

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
  waiting = cancel_ahead(j, math.max(a, j.cursor), b)
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
