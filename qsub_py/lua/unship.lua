-- Give up what was to be shipped, unless some job has it.
-- KEYS  meta
-- ARGV  blob
-- Returns 1 when it was deleted, else 0. Replay: it is gone.
--- @include head
if redis.call('HEXISTS', P .. 'refs', ARGV[1]) == 1 then return 0 end
tick()
return redis.call('UNLINK', key('blob', ARGV[1]))
