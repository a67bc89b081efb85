-- Blobs are temporary until the submit or finish that refers to them keeps them.
local function keep_blobs(j, names)
  for name in string.gmatch(names, '[^,]+') do
    redis.call('PERSIST', key('blob', name))
    redis.call('SADD', key('blobs', j.id), name)
  end
end

-- Whether the server has used 80 % of its memory: the soft limit that only submissions meet.
-- Asked at most once a second while it has not: INFO costs more than an append.
local function is_full()
  local asked = tonumber(redis.call('HGET', KEYS[1], 'room_at') or -1000)
  if math.abs(NOW - asked) < 1000 then return false end
  local info = redis.call('INFO', 'memory')
  local used, most = string.match(info, 'used_memory:(%d+)'), string.match(info, 'maxmemory:(%d+)')
  if tonumber(most or 0) > 0 and tonumber(used) > 0.8 * tonumber(most) then return true end
  redis.call('HSET', KEYS[1], 'room_at', NOW)
  return false
end
