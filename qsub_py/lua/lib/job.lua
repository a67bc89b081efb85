-- Jobs: load, count, stand in a lane, end. A task's byte is state * 16 + min(attempt, 15).
--- @include saving
local PD, R, CG, CD, F, CA, TO, OOM, NF, DF = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
local JOB = {'n', 'cursor', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9', 'held', 'fate',
  'limit', 'open', 'begin', 'lane', 'rank', 'uid', 'requeue', 'ended', 'started', 'rseq', 'unfit', 'kind',
  'later', 'later_at', 'grown', 'classes', 'sched', 'time'}
local TEXT = {lane = true, uid = true, kind = true, classes = true, sched = true}
local SAVED = {'n', 'cursor', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9', 'held', 'fate',
  'open', 'begin', 'ended', 'started', 'rseq', 'unfit', 'later', 'later_at', 'grown', 'classes'}

-- A job whose hash is damaged (not a hash) is one that is not there.
local function load(id)
  local row = redis.pcall('HMGET', key('j', id), unpack(JOB))
  if row.err or not row[19] then return nil end
  local j = {id = id, was = {}}
  for i = 1, #JOB do
    if TEXT[JOB[i]] then j[JOB[i]] = row[i] or '' else j[JOB[i]] = tonumber(row[i] or 0) end
    j.was[JOB[i]] = j[JOB[i]]
  end
  -- Seconds that its owner pays for each cpu at a claim.
  j.charge = j.time > 0 and math.ceil(math.min(60, j.time)) or 60
  return j
end

local function ended_tasks(j) return j.c3 + j.c4 + j.c5 + j.c6 + j.c7 + j.c8 + j.c9 end
local function pending(j) return j.n - j.c1 - j.c2 - ended_tasks(j) end

-- Pending tasks are past the cursor or in `again` (class 0), in the list of another class
-- (`grown`), or wait for their next attempt (`later`).
local function plain(j) return pending(j) - j.later - j.grown end

local function may_start(j)
  return j.held == 0 and j.fate == 0 and j.begin == 0 and (j.limit == 0 or j.c1 + j.c2 < j.limit)
end

-- Whether a claim may take a task of it.
local function is_ready(j) return pending(j) > j.later and may_start(j) end

local function rank_lane(lane)
  local head = redis.call('ZRANGE', key('lane', lane), 0, 0, 'WITHSCORES')
  if head[1] then redis.call('ZADD', P .. 'lanes', head[2], lane)
  else
    redis.call('ZREM', P .. 'lanes', lane)
    if saving() and saving().lane == lane then end_saving() end
  end
end

local function stand(lane, member, rank, is_in)
  local changed
  if is_in then changed = redis.call('ZADD', key('lane', lane), rank, member)
  else changed = redis.call('ZREM', key('lane', lane), member) end
  if changed == 1 then rank_lane(lane) end
end

-- The lane of a class: of a retry that needs other resources than the job. Class 0 is the job's.
local function class_lane(j, class)
  if class == 0 then return j.lane end
  j.lane_of = j.lane_of or {}
  j.lane_of[class] = j.lane_of[class] or redis.call('HGET', key('j', j.id), 'lane:' .. class)
  return j.lane_of[class]
end

local function again_key(id, class)
  return key('again', class == 0 and id or id .. ':' .. class)
end

-- Put the job into its lanes or take it out, as its fields say.
local function enlist(j)
  local may = may_start(j)
  stand(j.lane, j.id, j.rank, may and plain(j) > 0)
  for class in string.gmatch(j.classes, '%d+') do
    class = tonumber(class)
    stand(class_lane(j, class), j.id .. ':' .. class, j.rank,
      may and j.grown > 0 and redis.call('EXISTS', again_key(j.id, class)) == 1)
  end
end

-- Write what changed: a number as text is dear, and most stay the same.
local function save(j)
  local changed = {}
  for i = 1, #SAVED do
    local field = SAVED[i]
    if j[field] ~= j.was[field] then
      changed[#changed + 1], changed[#changed + 2] = field, j[field]
      j.was[field] = j[field]
    end
  end
  if changed[1] then redis.call('HSET', key('j', j.id), unpack(changed)) end
end

-- A notice in the results stream: states changed without a result of their own.
local function notice(j)
  j.rseq = j.rseq + 1
  redis.call('XADD', key('res', j.id), string.format('%.0f-0', j.rseq), 'x', 1)
end

-- Write the job back; end it when every task has ended and no more can come, revive it when not.
local function settle(j)
  local over = j.open == 0 and ended_tasks(j) == j.n
  if over and j.ended == 0 then
    j.ended = NOW
    notice(j)
    redis.call('ZREM', P .. 'active', j.id)
    redis.call('ZADD', P .. 'ended', NOW, j.id)
    redis.call('DEL', key('again', j.id))
    -- The next firing of its schedule may wait for this one.
    if j.sched ~= '' and redis.call('EXISTS', key('waits', j.sched)) == 1 then
      redis.call('ZADD', P .. 'beats', NOW, j.sched)
    end
    for class in string.gmatch(j.classes, '%d+') do redis.call('DEL', again_key(j.id, tonumber(class))) end
  elseif not over and j.ended ~= 0 then
    j.ended = 0
    redis.call('ZREM', P .. 'ended', j.id)
    redis.call('ZADD', P .. 'active', j.id, j.id)
  end
  save(j)
  enlist(j)
end

local function states_of(id, first, count)
  local s = redis.call('GETRANGE', key('st', id), first, first + count - 1)
  if #s < count then s = s .. string.rep('\0', count - #s) end
  return s
end

-- Write states. The string of a large array is made at once: one that grows has up to half of it
-- to spare.
local function put_states(j, first, text)
  if j.n >= 4096 and j.open == 0 and redis.call('EXISTS', key('st', j.id)) == 0 then
    redis.call('SETRANGE', key('st', j.id), j.n - 1, '\0')
  end
  redis.call('SETRANGE', key('st', j.id), first, text)
end

local function push_again(id, first, count, front, class)
  redis.call(front and 'LPUSH' or 'RPUSH', again_key(id, class or 0), string.format('%.0f:%.0f', first, count))
end

-- When promote must look at the job: its begin time, or the next retry.
local function set_due(j)
  local at = j.begin
  if j.later_at > 0 and (at == 0 or j.later_at < at) then at = j.later_at end
  if at > 0 then redis.call('ZADD', P .. 'due', at, j.id) else redis.call('ZREM', P .. 'due', j.id) end
end

-- What a task has used up: retries, requeues of its own wish, its class ("1:0:16" in `rt`).
local function tries(id, pos)
  local text = redis.call('HGET', key('rt', id), pos) or '0:0:0'
  local retries, requeues, class = string.match(text, '(%d+):(%d+):(%d+)')
  return tonumber(retries), tonumber(requeues), tonumber(class)
end

local function class_of(id, pos)
  local _, _, class = tries(id, pos)
  return class
end

-- The next retry's time, once it is not what the job says.
local function later_again(j)
  local head = redis.call('ZRANGE', key('later', j.id), 0, 0, 'WITHSCORES')
  j.later_at = tonumber(head[2] or 0)
  set_due(j)
end

-- A pending task leaves the queue otherwise than by a claim.
local function unplace(j, pos)
  if j.later + j.grown == 0 then return end
  if redis.call('ZREM', key('later', j.id), pos) == 1 then
    j.later = j.later - 1
    later_again(j)
  elseif class_of(j.id, pos) > 0 then j.grown = j.grown - 1 end
end

-- Cancelled intervals past the cursor, "a-b,c-d" in order.
local function intervals(id)
  local list = {}
  for a, b in string.gmatch(redis.call('HGET', key('j', id), 'cx') or '', '(%d+)-(%d+)') do
    list[#list + 1] = {tonumber(a), tonumber(b)}
  end
  return list
end

-- Move the cursor on to `to`: what was cancelled before it is written down, what waits there
-- goes to `again`.
local function pass(j, to)
  local cut, at = intervals(j.id), j.cursor
  for i = 1, #cut do
    local a, b = math.max(cut[i][1], at), math.min(cut[i][2], to - 1)
    if a <= b then
      if a > at then push_again(j.id, at, a - at, false) end
      put_states(j, a, string.rep(string.char(CA * 16), b - a + 1))
      at = b + 1
    end
  end
  if at < to then push_again(j.id, at, to - at, false) end
  j.cursor = to
end

-- Give the whole job one end: what waits gets `state` at once (derived from `fate`).
local function doom(j, state)
  local waiting = pending(j)
  j['c' .. state] = j['c' .. state] + waiting
  j.c2, j.c1 = j.c2 + j.c1, 0
  j.fate, j.open, j.begin = state, 0, 0
  j.later, j.later_at, j.grown = 0, 0, 0
  redis.call('UNLINK', key('later', j.id))
  redis.call('ZREM', P .. 'open', j.id)
  redis.call('ZREM', P .. 'due', j.id)
  notice(j)
  return waiting
end
