-- Create a schedule, or return the one that this token made before. Its number is a job's.
-- KEYS  meta
-- ARGV  1 to 15 as submit.lua, then: rule (signed with the spec), first time (ms), most firings
--       (0: any), overlap (skip, queue, allow), then pairs field, value for display; of these
--       patience (ms) is how long after it was due a job may begin
-- Returns as submit.lua. What its jobs would wait for, ended long ago when they are made: refused.
-- Replay: the token finds the first one's id; nothing is written.
--- @include head job node blob

local known = redis.call('GET', key('tok', ARGV[1]))
if known then return {'ok', tonumber(known), 0, 0} end
for i = 20, #ARGV, 2 do
  if ARGV[i] == 'after' or ARGV[i] == 'corr' then return redis.error_reply('ERR a schedule that waits for jobs') end
end
if not has_shared(ARGV[15]) then return {'lost'} end
if is_full() then return {'full'} end
tick()
local id = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'job', 1))
local shown, blobs = {}, ARGV[15]
for i = 20, #ARGV do shown[#shown + 1] = ARGV[i] end
-- A large function is kept as long as shipped files: while some firing needs it.
for name in string.gmatch(ARGV[14], '[^,]+') do
  blobs = (blobs == '' and '' or blobs .. ',') .. name .. ':' .. redis.call('HLEN', key('blob', name))
end
redis.call('SET', key('tok', ARGV[1]), id)
redis.call('HSET', key('s', id), 'uid', ARGV[2], 'spec', ARGV[3], 'sig', ARGV[4], 'n', ARGV[5],
  'lane', ARGV[6], 'prio', ARGV[7], 'limit', ARGV[8], 'held', ARGV[9], 'fn', ARGV[12],
  'requeue', ARGV[13], 'blobs', blobs, 'rule', ARGV[16], 'next', ARGV[17],
  'left', ARGV[18] == '0' and -1 or ARGV[18], 'overlap', ARGV[19], 'shown', cjson.encode(shown),
  'token', ARGV[1], 'submitted', NOW, 'fired', 0, 'missed', 0, 'skipped', 0, 'last', 0, 'last_due', 0,
  'resumed', 0, 'ended', 0)
for i = 20, #ARGV, 2 do redis.call('HSET', key('s', id), ARGV[i], ARGV[i + 1]) end
share_blobs({id = id}, blobs)
redis.call('ZADD', P .. 'schedules', id, id)
if ARGV[9] ~= '1' then
  redis.call('ZADD', P .. 'beats', ARGV[17], id)
  ping()
end
return {'ok', tonumber(id), 1, 0}
