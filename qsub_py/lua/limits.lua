-- Set or remove limits of the cluster; idle nodes look again.
-- KEYS  meta
-- ARGV  pairs name ("license:matlab", "owner:ann", "owner:*"), number ('' removes it)
-- Returns 1. Replay: the same limits again.
--- @include head job node
tick()
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', P .. 'limits', ARGV[i])
  else redis.call('HSET', P .. 'limits', ARGV[i], ARGV[i + 1]) end
end
local caps = false
local names = redis.call('HKEYS', P .. 'limits')
for i = 1, #names do caps = caps or string.sub(names[i], 1, 6) == 'owner:' end
-- Nobody asks for caps where there are none.
if caps then redis.call('HSET', KEYS[1], 'caps', 1) else redis.call('HDEL', KEYS[1], 'caps') end
local idle = redis.call('ZRANGE', P .. 'idle', 0, SLICE - 1)
for i = 1, #idle do
  redis.call('ZREM', P .. 'idle', idle[i])
  ping(idle[i])
end
return 1
