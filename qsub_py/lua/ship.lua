-- Store pieces of what a job ships, found by its content; it goes unless a submit refers to it.
-- A part of a submission, so it is refused when memory is short.
-- KEYS  meta
-- ARGV  blob, seconds, then pairs piece number, bytes (none: only keep what is there for so long)
-- Returns 1; 0 when memory is short. Replay: the same pieces again.
--- @include head blob
if redis.call('HEXISTS', P .. 'refs', ARGV[1]) == 1 then return 1 end
if #ARGV > 2 and uses_over(0.8) then return 0 end
tick()
for i = 3, #ARGV, 2 do redis.call('HSET', key('blob', ARGV[1]), ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', key('blob', ARGV[1]), ARGV[2])
return 1
