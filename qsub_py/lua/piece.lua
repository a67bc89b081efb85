-- Store a piece of a large result, also when memory is short: only submissions are refused then.
-- KEYS  meta
-- ARGV  blob, piece number, bytes, seconds until it goes unless a finish refers to it
-- Returns 1. Replay: the same piece again.
--- @include head
tick()
redis.call('HSET', key('blob', ARGV[1]), ARGV[2], ARGV[3])
redis.call('EXPIRE', key('blob', ARGV[1]), ARGV[4])
return 1
