-- Blobs are temporary until the submit or finish that refers to them keeps them.
local function keep_blobs(j, names)
  for name in string.gmatch(names, '[^,]+') do
    redis.call('PERSIST', key('blob', name))
    redis.call('SADD', key('blobs', j.id), name)
  end
end

-- Files that jobs ship are found by their content and shared: `refs` counts the jobs that
-- need a blob. Words are "name:pieces"; returns whether all are there, every piece of them.
local function has_shared(words)
  for name, pieces in string.gmatch(words, '(%w+):(%d+)') do
    if redis.call('HLEN', key('blob', name)) ~= tonumber(pieces) then return false end
  end
  return true
end

local function share_blobs(j, words)
  for name in string.gmatch(words, '(%w+):%d+') do
    redis.call('PERSIST', key('blob', name))
    if redis.call('SADD', key('blobs', j.id), name) == 1 then redis.call('HINCRBY', P .. 'refs', name, 1) end
  end
end

-- Whether more than this share of the server's memory is in use.
local function uses_over(share)
  local info = redis.call('INFO', 'memory')
  local used, most = string.match(info, 'used_memory:(%d+)'), string.match(info, 'maxmemory:(%d+)')
  return tonumber(most or 0) > 0 and tonumber(used) > share * tonumber(most)
end

-- Whether the server has used 80 % of its memory: the soft limit that only submissions meet.
-- Asked at most once a second while it has not: INFO costs more than an append.
local function is_full()
  local asked = tonumber(redis.call('HGET', KEYS[1], 'room_at') or -1000)
  if math.abs(NOW - asked) < 1000 then return false end
  if uses_over(0.8) then return true end
  redis.call('HSET', KEYS[1], 'room_at', NOW)
  return false
end
