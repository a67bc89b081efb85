-- Create a job, or return the one that this token made before.
-- KEYS  meta
-- ARGV  token, uid, spec, signature, count, lane, priority, limit, held, open, begin (ms or 0),
--       function (or ''), requeue, blobs ("name,name"), shipped blobs ("name:pieces,name:pieces"),
--       then pairs field, value for display (name owner queue kind cpus mem gpus time ...)
-- Returns {'ok', id, is new}; {'full'} when memory is short; {'lost'}: a shipped blob is not there
--         (any more), send it again.
-- Replay: the token finds the first one's id; nothing is written.
--- @include head job node blob

local known = redis.call('GET', key('tok', ARGV[1]))
if known then return {'ok', tonumber(known), 0} end
if not has_shared(ARGV[15]) then return {'lost'} end
if is_full() then return {'full'} end
tick()
local id = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'job', 1))
local count, priority = tonumber(ARGV[5]), tonumber(ARGV[7])
redis.call('SET', key('tok', ARGV[1]), id)
redis.call('HSET', key('j', id), 'uid', ARGV[2], 'spec', ARGV[3], 'sig', ARGV[4], 'n', count,
  'cursor', 0, 'lane', ARGV[6], 'prio', priority, 'limit', ARGV[8], 'held', ARGV[9], 'open', ARGV[10],
  'begin', ARGV[11], 'requeue', ARGV[13], 'token', ARGV[1], 'submitted', NOW, 'c1', '0', 'c2', '0', 'c3', '0', 'c4', '0', 'c5', '0', 'c6', '0',
  'c7', '0', 'c8', '0', 'c9', '0', 'fate', '0', 'ended', '0', 'started', '0', 'rseq', '0', 'unfit', '0',
  'rank', string.format('%.0f', id - priority * 1099511627776))
if ARGV[12] ~= '' then redis.call('HSET', key('j', id), 'fn', ARGV[12]) end
for i = 16, #ARGV, 2 do redis.call('HSET', key('j', id), ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', P .. 'active', id, id)
if ARGV[10] == '1' then redis.call('ZADD', P .. 'open', SERVED + 600000, id) end
if tonumber(ARGV[11]) > 0 then redis.call('ZADD', P .. 'due', ARGV[11], id) end
local j = load(id)
keep_blobs(j, ARGV[14])
share_blobs(j, ARGV[15])
settle(j)
offer(j)
return {'ok', tonumber(id), 1}
