-- Fire a schedule: make the job of a time that has come, and set the next time. Who is first does
-- it; the job's uid follows from the schedule's and the time, so that a node can see that it is one.
-- KEYS  meta
-- ARGV  schedule, uid, the time it was due (ms), the time to fire for (0: none), times missed,
--       next time (0: none)
-- Returns {'ok', job or 0}; {'stale'}: another did it, or it is not due; {'gone'}; {'full'}.
-- Replay: the schedule is due at another time already.
--- @include head job node blob

local sid, due, fire = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local row, s = redis.pcall('HGETALL', key('s', sid)), {}
if row.err then row = {} end
for i = 1, #row, 2 do s[row[i]] = row[i + 1] end
if s.uid ~= ARGV[2] or s.ended ~= '0' or s.held ~= '0' then
  redis.call('ZREM', P .. 'beats', sid)
  return {'gone'}
end
local changed = {}
local function set(field, value)
  s[field] = tostring(value)
  changed[#changed + 1], changed[#changed + 2] = field, type(value) == 'number' and string.format('%.0f', value) or value
end

local function is_busy() return redis.call('ZSCORE', P .. 'active', s.last) ~= false end

-- The last hundred are kept: what ended of the others is given to purge, whatever its age.
local function remember_firing(id, at)
  redis.call('ZADD', key('fires', sid), at, id)
  for _ = 1, 4 do
    local oldest = redis.call('ZRANGE', key('fires', sid), 0, 0)[1]
    if redis.call('ZCARD', key('fires', sid)) <= 100 or redis.call('ZSCORE', P .. 'active', oldest) then return end
    redis.call('ZADD', P .. 'ended', 'XX', -1, oldest)
    redis.call('ZREM', key('fires', sid), oldest)
  end
end

local function make_job(at)
  local id = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'job', 1))
  local stamp = string.format('%.0f', at)
  local uid = string.sub(redis.sha1hex(s.uid .. ':' .. stamp), 1, 16)
  redis.call('HSET', key('j', id), 'uid', uid, 'spec', s.spec, 'sig', s.sig, 'n', s.n, 'cursor', 0,
    'lane', s.lane, 'prio', s.prio, 'limit', s.limit, 'held', 0, 'open', 0, 'begin', 0,
    'requeue', s.requeue, 'submitted', NOW, 'c1', 0, 'c2', 0, 'c3', 0, 'c4', 0, 'c5', 0, 'c6', 0, 'c7', 0,
    'c8', 0, 'c9', 0, 'fate', 0, 'ended', 0, 'started', 0, 'rseq', 0, 'unfit', 0,
    'rank', string.format('%.0f', id - s.prio * 1099511627776),
    'sched', sid, 'suid', s.uid, 'due', stamp, 'rule', s.rule)
  local shown = cjson.decode(s.shown)
  for i = 1, #shown, 2 do redis.call('HSET', key('j', id), shown[i], shown[i + 1]) end
  if s.fn ~= '' then redis.call('HSET', key('j', id), 'fn', s.fn) end
  redis.call('ZADD', P .. 'active', id, id)
  local j = load(id)
  share_blobs(j, s.blobs)
  -- Its deadline is counted from the time it was due.
  if s.patience then j.expire = at + tonumber(s.patience) set_due(j) end
  settle(j)
  offer(j)
  remember_firing(id, at)
  set('last', id)
  set('last_due', at)
  set('fired', s.fired + 1)
  return tonumber(id)
end

local is_waiting = redis.call('LLEN', key('waits', sid)) > 0
local may_go = is_waiting and not is_busy()
local is_due = due > 0 and tonumber(s.next) == due and due <= NOW and fire <= NOW
tick()
if not may_go and not is_due then
  -- What woke us is over.
  if s.next == '0' then redis.call('ZREM', P .. 'beats', sid) else redis.call('ZADD', P .. 'beats', s.next, sid) end
  return {'stale'}
end
if is_full() then return {'full'} end
local job = 0
if may_go then
  job = make_job(tonumber(redis.call('LPOP', key('waits', sid))))
  is_waiting = redis.call('LLEN', key('waits', sid)) > 0
end
if is_due then
  if s.resumed == '1' then
    -- It was held meanwhile: that is not missed.
    fire = 0
    set('resumed', 0)
  else set('missed', s.missed + tonumber(ARGV[5])) end
  if fire > 0 then
    local is_free = s.overlap == 'allow' or not (is_busy() or is_waiting)
    if is_free then job = make_job(fire)
    elseif s.overlap == 'queue' and redis.call('LLEN', key('waits', sid)) < 100 then
      redis.call('RPUSH', key('waits', sid), string.format('%.0f', fire))
      is_waiting = true
    else
      set('skipped', s.skipped + 1)
      fire = 0
    end
    if fire > 0 and tonumber(s.left) > 0 then set('left', s.left - 1) end
  end
  set('next', s.left == '0' and 0 or tonumber(ARGV[6]))
end
if s.next ~= '0' then redis.call('ZADD', P .. 'beats', s.next, sid)
else
  redis.call('ZREM', P .. 'beats', sid)
  if not is_waiting then
    set('ended', NOW)
    redis.call('ZREM', P .. 'schedules', sid)
    redis.call('ZADD', P .. 'schedules_ended', NOW, sid)
  end
end
if changed[1] then redis.call('HSET', key('s', sid), unpack(changed)) end
return {'ok', job}
