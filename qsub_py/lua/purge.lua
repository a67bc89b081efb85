-- Delete a job that ended, with all that belongs to it.
-- KEYS  meta
-- ARGV  ended before (ms)
-- Returns 1 when one was deleted, else 0; call again while it is 1.
-- Replay: deletes the next one, which has ended as long ago.
--- @include head
tick()
local old = redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1)
if #old == 0 then return 0 end
local id = old[1]
local blobs = redis.call('SRANDMEMBER', key('blobs', id), SLICE)
for i = 1, #blobs do
  local is_shared = redis.call('HEXISTS', P .. 'refs', blobs[i]) == 1
  if not is_shared or redis.call('HINCRBY', P .. 'refs', blobs[i], -1) <= 0 then
    redis.call('UNLINK', key('blob', blobs[i]))
    redis.call('HDEL', P .. 'refs', blobs[i])
  end
  redis.call('SREM', key('blobs', id), blobs[i])
end
if #blobs == SLICE then return 1 end
local token = redis.call('HGET', key('j', id), 'token')
if token then redis.call('UNLINK', key('tok', token)) end
redis.call('UNLINK', key('j', id), key('st', id), key('at', id), key('ct', id), key('again', id), key('rt', id), key('later', id),
  key('on', id), key('unfit', id), key('args', id), key('res', id), key('rx', id), key('tail', id),
  key('files', id), key('blobs', id))
redis.call('ZREM', P .. 'ended', id)
redis.call('ZREM', P .. 'due', id)
return 1
