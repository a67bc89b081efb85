-- Jobs: load, count, stand in a lane, end. A task's byte is state * 16 + min(attempt, 15).
-- WT: it is pending, but what it needs of other tasks is not there yet (deps.lua).
--- @include saving
local PD, R, CG, CD, F, CA, TO, OOM, NF, DF, WT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11
local JOB = {'n', 'cursor', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9', 'held', 'fate',
  'limit', 'open', 'begin', 'lane', 'rank', 'uid', 'requeue', 'ended', 'started', 'rseq', 'unfit', 'kind',
  'later', 'later_at', 'grown', 'classes', 'sched', 'dep', 'wait', 'gate', 'kids', 'acct', 'ver', 'susp', 'sx',
  'time', 'expire'}
local TEXT = {lane = true, uid = true, kind = true, classes = true, sched = true, acct = true, sx = true}
local SAVED = {'n', 'cursor', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9', 'held', 'fate',
  'open', 'begin', 'ended', 'started', 'rseq', 'unfit', 'later', 'later_at', 'grown', 'classes',
  'dep', 'wait', 'kids', 'acct', 'susp', 'sx', 'expire'}

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
local function bad_tasks(j) return ended_tasks(j) - j.c3 end
local function pending(j) return j.n - j.c1 - j.c2 - ended_tasks(j) end
-- Whether each task has started or was cancelled; those that failed and are tried again have.
local function has_started(j) return j.open == 0 and pending(j) == j.later + j.grown end

-- Pending tasks are past the cursor or in `again` (class 0), in the list of another class
-- (`grown`), wait for their next attempt (`later`), or for what they need (`wait`).
local function plain(j) return pending(j) - j.later - j.grown - j.wait end

local function may_start(j)
  return j.held == 0 and j.susp == 0 and j.fate == 0 and j.begin == 0 and j.dep == 0
    and (j.limit == 0 or j.c1 + j.c2 < j.limit)
end

-- Whether a claim may take a task of it.
local function is_ready(j) return pending(j) > j.later + j.wait and may_start(j) end

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

-- What is left for whoever comes next: see todo.lua.
local function push_todo(verb, id, a, b, word)
  redis.call('RPUSH', P .. 'todo',
    table.concat({verb, id, string.format('%.0f', a), string.format('%.0f', b), word}, '|'))
end

-- Tasks first..last ended: those that need something of them must hear of it.
local function tell(j, first, last)
  if math.floor(j.kids / 2) % 2 == 1 then push_todo('uses', j.id, first, last, '0') end
end

-- A notice in the results stream: states changed without a result of their own.
local function notice(j)
  j.rseq = j.rseq + 1
  redis.call('XADD', key('res', j.id), string.format('%.0f-0', j.rseq), 'x', 1)
end

-- Write the job back; end it when every task has ended and no more can come, revive it when not.
local function settle(j)
  local over = j.open == 0 and ended_tasks(j) == j.n
  -- The jobs that wait for all of this one are told when it is over, of its first failure, and
  -- when none of it is left to start.
  if j.kids % 2 == 1 and (over and j.ended == 0 or bad_tasks(j) > 0 and bad_tasks(j.was) == 0
    or has_started(j) and not has_started(j.was)) then
    push_todo('kids', j.id, 0, 0, '')
  end
  if j.kids >= 4 and over ~= (j.ended ~= 0) then push_todo('line', j.id, over and 1 or 0, 0, '') end
  if over and j.ended == 0 then
    j.ended = NOW
    notice(j)
    redis.call('ZREM', P .. 'active', j.id)
    redis.call('ZADD', P .. 'ended', NOW, j.id)
    redis.call('DEL', key('again', j.id))
    -- The next firing of its schedule may wait for this one.
    if j.sched ~= '' and redis.call('EXISTS', key('waits', j.sched)) == 1 then
      redis.call('ZADD', P .. 'beats', NOW, j.sched)
      ping()
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

-- When promote must look at the job: its begin time, its deadline, or the next retry.
local function set_due(j)
  local at = j.begin
  if j.later_at > 0 and (at == 0 or j.later_at < at) then at = j.later_at end
  if j.expire > 0 and (at == 0 or j.expire < at) then at = j.expire end
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
-- goes to `again`, or is marked where all tasks of the job wait for others.
local function pass(j, to)
  local cut, at = intervals(j.id), j.cursor
  local function leave_waiting(from, count)
    if j.gate == 2 then put_states(j, from, string.rep(string.char(WT * 16), count))
    else push_again(j.id, from, count, false) end
  end
  for i = 1, #cut do
    local a, b = math.max(cut[i][1], at), math.min(cut[i][2], to - 1)
    if a <= b then
      if a > at then leave_waiting(at, a - at) end
      put_states(j, a, string.rep(string.char(CA * 16), b - a + 1))
      at = b + 1
    end
  end
  if at < to then leave_waiting(at, to - at) end
  j.cursor = to
end

-- Give the whole job one end: what waits gets `state` at once (derived from `fate`).
local function doom(j, state)
  local waiting = pending(j)
  j['c' .. state] = j['c' .. state] + waiting
  j.c2, j.c1 = j.c2 + j.c1, 0
  j.fate, j.open, j.begin, j.expire = state, 0, 0, 0
  j.later, j.later_at, j.grown = 0, 0, 0
  redis.call('UNLINK', key('later', j.id))
  redis.call('ZREM', P .. 'open', j.id)
  redis.call('ZREM', P .. 'due', j.id)
  notice(j)
  tell(j, 0, j.n - 1)
  return waiting
end

-- The bytes of tasks as a user should see them: what a cancel of the whole job or of an interval
-- says about tasks that were never touched is filled in.
local function shown(j, first, count)
  local past = math.max(0, math.min(count, first + count - j.cursor))
  local waits = j.fate ~= 0 and string.char(j.fate * 16) or '\0'
  local out = {}
  -- Up to the cursor each task has a byte; a job that was given up gives those that wait its end.
  if past < count then
    local bytes = states_of(j.id, first, count - past)
    if j.fate ~= 0 then
      local changed = {}
      for byte = 0, 15 do
        changed[string.char(byte)] = string.char(j.fate * 16 + byte)
        changed[string.char(WT * 16 + byte)] = string.char(j.fate * 16 + byte)
      end
      for byte = 16, 31 do changed[string.char(byte)] = string.char(byte + 16) end
      bytes = string.gsub(bytes, '[%z\1-\31\176-\191]', changed)
    end
    out[1] = bytes
  end
  -- Past it all wait, but for the intervals that were cancelled.
  local at, stop = first + count - past, first + count
  local cut = past > 0 and intervals(j.id) or {}
  for i = 1, #cut do
    local a, b = math.max(cut[i][1], at), math.min(cut[i][2], stop - 1)
    if a <= b then
      out[#out + 1] = string.rep(waits, a - at)
      out[#out + 1] = string.rep(string.char(CA * 16), b - a + 1)
      at = b + 1
    end
  end
  out[#out + 1] = string.rep(waits, stop - at)
  return table.concat(out)
end
