-- Set or remove limits of the cluster; a raise wakes what waited for it.
-- KEYS  meta
-- ARGV  pairs name ("license:matlab"), number ('' removes it)
-- Returns 1. Replay: the same limits again.
--- @include head job node
tick()
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', P .. 'limits', ARGV[i])
  else redis.call('HSET', P .. 'limits', ARGV[i], ARGV[i + 1]) end
  local kind, name = string.match(ARGV[i], '^(%a+):(.+)$')
  if kind == 'license' then wake_for_license(name) end
end
return 1
