-- Something is due at a time of which no node knows yet: one that is idle asks for it.
local function remind()
  local uid = redis.call('ZRANGE', P .. 'idle', 0, 0)[1]
  if uid then redis.call('RPUSH', key('inbox', uid), 3) end
end
