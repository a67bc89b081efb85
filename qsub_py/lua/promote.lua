-- Let jobs start whose begin time has come.
-- KEYS  meta
-- Returns {how many (at most 256), next due ms or 0}; call again while it is 256.
-- Replay: they have left `due`.
--- @include head job node
tick()
local due = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'LIMIT', 0, SLICE)
for i = 1, #due do
  redis.call('ZREM', P .. 'due', due[i])
  local j = load(due[i])
  if j then
    j.begin = 0
    settle(j)
    offer(j)
  end
end
local next_due = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
return {#due, tonumber(next_due[2] or 0)}
