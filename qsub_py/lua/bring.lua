-- Store pieces of the files that a task brings back, while server and job have room for them.
-- What finds none stays on its node, so this may be refused: at 90 % of the memory, or when the
-- files of the job's tasks that have ended and these are more than the job may bring.
-- KEYS  meta
-- ARGV  job, blob, seconds until it goes unless a finish refers to it, bytes in all, bytes that the
--       job may bring, then pairs piece number, bytes
-- Returns 'ok', 'full' or 'budget'; not 'ok': none of it is left. Replay: the same pieces again.
--- @include head blob
tick()
local brought = tonumber(redis.call('HGET', key('j', ARGV[1]), 'brought') or 0)
local word = 'ok'
if brought + tonumber(ARGV[4]) > tonumber(ARGV[5]) then word = 'budget'
elseif uses_over(0.9) then word = 'full' end
if word ~= 'ok' then
  redis.call('UNLINK', key('blob', ARGV[2]))
  return word
end
for i = 6, #ARGV, 2 do redis.call('HSET', key('blob', ARGV[2]), ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', key('blob', ARGV[2]), ARGV[3])
return word
