-- Renew a node's lease, hear its orders, do one slice of unfinished fan-outs.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id, acknowledged orders ("3,4"), then pairs field, value of what
--       is new on the node (load; gpus_busy: devices that others use, gpus_why)
-- Returns {'ok', now ms, unfinished fan-outs, seq, order, ...}; {'RUNID'}, {'FENCED'}: say hello.
-- Replay: a lease renewed twice is renewed; an order acknowledged twice is gone.
--- @include head job node batch deps todo

local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
acknowledge(uid, ARGV[4])
redis.call('ZADD', P .. 'nodes', SERVED + LEASE_MS, uid)
redis.call('HSET', key('node', uid), 'seen', NOW, unpack(ARGV, 5))
local left = do_todo()
local reply, pairs_ = {'ok', NOW, left}, orders(uid)
for i = 1, #pairs_ do reply[#reply + 1] = pairs_[i] end
return reply
