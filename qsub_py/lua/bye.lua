-- A node leaves for good; whatever it still holds never ran to an end and is pending again.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id
-- Returns {'ok'}; {'more'}: it holds a lot, call again; {'RUNID'}, {'FENCED'}. Replay: it has left.
--- @include head job node batch
local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
redis.call('ZREM', P .. 'idle', uid)
if saving() and saving().node == uid then end_saving(uid) end
local slots, dropped, node = redis.call('HKEYS', key('slots', uid)), 0, load_node(uid)
for i = 1, #slots do
  if dropped >= MOST_DROPPED then break end
  local b = load_batch(uid, slots[i])
  dropped = dropped + cost(b)
  drop_batch(uid, b, 13, node)
end
save_free(node)
if dropped >= MOST_DROPPED then return {'more'} end
redis.call('ZREM', P .. 'nodes', uid)
redis.call('SREM', P .. 'rec', uid)
redis.call('DEL', key('orders', uid), key('inbox', uid))
redis.call('HSET', key('node', uid), 'state', 'down', 'reason', '', 'stopped', NOW)
return {'ok'}
