-- Change what a node may do: draining (nothing new), up again, or stop.
-- KEYS  meta
-- ARGV  node uid, 'draining' or 'up', reason
-- Returns 1, or 0 when there is no such live node. Replay: the same state again.
--- @include head job node
if not redis.call('ZSCORE', P .. 'nodes', ARGV[1]) then return 0 end
tick()
redis.call('HSET', key('node', ARGV[1]), 'state', ARGV[2], 'reason', ARGV[3])
if ARGV[2] == 'draining' then
  redis.call('ZREM', P .. 'idle', ARGV[1])
  if saving() and saving().node == ARGV[1] then end_saving(ARGV[1]) end
end
ping(ARGV[1])
return 1
