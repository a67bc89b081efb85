-- Give a node work: batches of tasks for slots that it has free, highest rank first.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id, request number, most batches,
--       hints ("job:tasks,job:tasks": how many short tasks of a job to put into one slot)
-- Returns {'ok', now ms, what is left, next due ms or 0, batch, ...}; what is left: 1 nothing now,
--         2 more to look at with the next claim, 0 no room. Each batch is
--         {slot, job, uid, first, count, attempt, epoch, cpus, mem, gpus, chunk, class, version}, chunk being
--         '' or {first, count, data, signature, blob} of the arguments that the batch begins with;
--         {'wait', now ms} during a recovery; {'RUNID'}, {'FENCED'}: say hello.
-- Replay: the last request number gets the same batches again; an older one gets nothing.
--- @include head job node batch deps todo suspend

local uid, req, most = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end

local function show(b, job_uid, version)
  return {tonumber(b.slot), tonumber(b.job), job_uid, b.first, b.count, b.attempt, b.epoch, b.cpus,
    string.format('%.0f', b.mem), b.gpus, b.chunk or '', b.class, tonumber(version or 0)}
end

local last = redis.call('HMGET', key('node', uid), 'req', 'reply')
if tonumber(last[1]) >= req then
  local reply = {'ok', NOW, 0, 0}
  if tonumber(last[1]) == req then
    for slot in string.gmatch(last[2], '%d+') do
      local b = load_batch(uid, slot)
      if b then reply[#reply + 1] = show(b, unpack(redis.call('HMGET', key('j', b.job), 'uid', 'ver'))) end
    end
  end
  return reply
end
tick()
if redis.call('SCARD', P .. 'rec') > 0 then
  if SERVED < tonumber(redis.call('HGET', KEYS[1], 'rec_until') or 0) then return {'wait', NOW} end
  redis.call('DEL', P .. 'rec')
end

do_todo()

local node = load_node(uid)
local hint = {}
for job, tasks in string.gmatch(ARGV[6], '(%d+):(%d+)') do hint[job] = tonumber(tasks) end

-- Whether a pending task is in the list of this class: an entry may be older than what became of it.
-- Returns a function of its offset in a range.
local looks = 4 * SLICE
local function standing(j, first, count, class)
  if j.later + j.grown == 0 then return function() return class == 0 end end
  looks = looks - count
  local numbers = {}
  for i = 1, count do numbers[i] = string.format('%.0f', first + i - 1) end
  local later = j.later > 0 and redis.call('ZMSCORE', key('later', j.id), unpack(numbers)) or {}
  local used = j.grown > 0 and redis.call('HMGET', key('rt', j.id), unpack(numbers)) or {}
  return function(i)
    if later[i] then return false end
    return (tonumber(string.match(used[i] or '', '%d+$')) or 0) == class
  end
end

-- The next pending range of a class, up to k tasks of one attempt number; nil when there is none.
local function next_again(j, k, class)
  for _ = 1, 64 do
    local entry = looks > 0 and redis.call('LPOP', again_key(j.id, class))
    if not entry then return nil end
    local first, count = string.match(entry, '(%d+):(%d+)')
    first, count = tonumber(first), tonumber(count)
    -- What was let go piece by piece goes out as one.
    while count < k and string.match(redis.call('LINDEX', key('again', j.id), 0) or '', '^%d+') == string.format('%.0f', first + count) do
      count = count + string.match(redis.call('LPOP', key('again', j.id)), '%d+$')
    end
    local bytes = states_of(j.id, first, math.min(count, SLICE))
    local stands = standing(j, first, #bytes, class)
    local i = 1
    while i <= #bytes and (string.byte(bytes, i) >= 16 or not stands(i)) do i = i + 1 end
    local nibble = i <= #bytes and string.byte(bytes, i) or 0
    local n = 0
    if i <= #bytes then
      n = 1
      while nibble < 14 and n < k and string.byte(bytes, i + n) == nibble
        and stands(i + n) do n = n + 1 end
    end
    local rest = count - (i - 1) - n
    if rest > 0 then push_again(j.id, first + i - 1 + n, rest, true, class) end
    if n > 0 then
      local attempt = nibble + 1
      if nibble == 15 then attempt = tonumber(redis.call('HGET', key('at', j.id), first + i - 1) or 15) + 1 end
      if attempt >= 15 then redis.call('HSET', key('at', j.id), first + i - 1, attempt) end
      return first + i - 1, n, attempt
    end
  end
  return nil
end

local function next_fresh(j, k)
  if j.gate == 2 then return nil end
  local stop = j.n
  j.cut = j.cut or intervals(j.id)
  while j.cut[1] do
    local a, b = j.cut[1][1], j.cut[1][2]
    if a > j.cursor then stop = math.min(stop, a) break end
    if b >= j.cursor then
      put_states(j, j.cursor, string.rep(string.char(CA * 16), b - j.cursor + 1))
      j.cursor = b + 1
    end
    table.remove(j.cut, 1)
  end
  local n = math.min(k, stop - j.cursor)
  if n <= 0 then return nil end
  j.cursor = j.cursor + n
  return j.cursor - n, n, 1
end

-- Taking a range costs the same however long it is, so a claim may be for several slices; a batch
-- costs up to 80 microseconds, and the fan-outs have taken their part of the time.
local MOST_BATCHES = math.max(8, 24 - math.floor(spent / 2))
local jobs, changed, batches, budget, unsure = {}, {}, {}, 4 * SLICE, false
local function cached(id)
  if not jobs[id] then jobs[id] = load(id) end
  return jobs[id]
end

-- A job whose keys are damaged leaves its lane, so that the others run.
local function set_aside(lane, member)
  changed[string.match(member, '^%d*')] = nil
  redis.call('ZREM', key('lane', lane), member)
  rank_lane(lane)
end

-- The first job in the lane that this node may start (a job unfit for it is passed over), and the
-- class of it that stands there: its member is "id" or "id:class".
local function head(lane)
  for at = 0, SLICE - 1, 16 do
    local ids = redis.call('ZRANGE', key('lane', lane), at, at + 15)
    for i = 1, #ids do
      local id, class = string.match(ids[i], '^(%d+):?(%d*)$')
      local j = id and cached(id)
      if not j then set_aside(lane, ids[i])
      elseif is_ready(j) and (j.expire == 0 or j.expire > NOW)
        and not (j.unfit == 1 and redis.call('HEXISTS', key('unfit', j.id), uid) == 1) then
        return j, tonumber(class) or 0, ids[i]
      end
    end
    if #ids < 16 then return nil end
  end
  return nil
end

-- The stored arguments that hold the call at the cursor: first position, number, and the fields.
local function chunk_at_cursor(j)
  if j.kind ~= 'call' then return nil end
  local entry = redis.call('XREVRANGE', key('args', j.id), string.format('%.0f-0', j.cursor + 1), '-', 'COUNT', 1)[1]
  if not entry then return nil end
  local field = {}
  for i = 1, #entry[2], 2 do field[entry[2][i]] = entry[2][i + 1] end
  return {first = tonumber(string.match(entry[1], '%d+')) - 1, n = tonumber(field.n), field = field}
end

local function take(j, need, class, may)
  local k = math.max(1, math.min(hint[j.id] or 1, budget, may))
  if j.limit > 0 then k = math.min(k, j.limit - j.c1 - j.c2) end
  changed[j.id] = j
  local first, count, attempt = next_again(j, k, class)
  local chunk
  if not first and class == 0 then
    -- A batch ends where its chunk ends, and brings it along when it begins it.
    chunk = chunk_at_cursor(j)
    if chunk then k = math.min(k, math.max(1, chunk.first + chunk.n - j.cursor)) end
    first, count, attempt = next_fresh(j, k)
  end
  if not first then
    -- 64 entries of `again` were of tasks that ended meanwhile; the next claim goes on.
    unsure = true
    if class > 0 then enlist(j) end
    return false
  end
  put_states(j, first, string.rep(string.char(16 + math.min(attempt, 15)), count))
  local had_started = has_started(j)
  j.c1 = j.c1 + count
  if class > 0 then j.grown = j.grown - count end
  begin_anew(j, first, count)
  if j.started == 0 then j.started = NOW end
  if j.kids % 2 == 1 and has_started(j) and not had_started then push_todo('kids', j.id, 0, 0, '') end
  budget = budget - count
  local b = {slot = string.format('%.0f', redis.call('HINCRBY', key('node', uid), 'slotseq', 1)), job = j.id,
    first = first, count = count, attempt = attempt, epoch = EPOCH, start = NOW, cpus = need.cpus,
    mem = booked_mem(need, node), gpus = take_gpus(node, need.gpus), left = count, mask = '', class = class,
    licenses = need.licenses, owner = need.owner, charge = j.charge}
  if chunk and first == chunk.first then b.chunk = {chunk.first, chunk.n, chunk.field.d, chunk.field.s, chunk.field.b} end
  book_batch(uid, b, node)
  if need.rate ~= '' then policy().spend_rate(need.rate, count) end
  batches[#batches + 1] = b
  if class > 0 or not is_ready(j) or plain(j) <= 0 then enlist(j) end
  return true
end

-- Save room for the head of a lane that does not fit now. Returns what this node may give to lanes
-- behind it: what is over when the head and all that started since are there. nil: it does not save.
-- Whoever meets a lane for which another saves need not look at those behind.
local others_save = false
local function save_room(lane, need)
  local _, shut = string.gsub(node.gpus_busy, '%d+', '')
  local mem = booked_mem(need, node)
  -- It must fit when all that runs here now has ended.
  if others_save or not may_serve(need, node) or need.gpus > node.gpus - shut or mem > node.mem then return nil end
  local function rank_of(name) return tonumber(redis.call('ZSCORE', P .. 'lanes', name) or math.huge) end
  local s = saving()
  if s and s.node ~= uid and rank_of(s.lane) <= rank_of(lane) then
    others_save = redis.call('ZSCORE', P .. 'nodes', s.node)
      and redis.call('HGET', key('node', s.node), 'state') == 'up'
    if others_save then return nil end
  end
  local j = may_hold(lane, need) > 0 and head(lane)
  if not j then return nil end
  if not (s and s.lane == lane and s.node == uid) then
    if s then end_saving(uid) end
    local slot = redis.call('HGET', key('node', uid), 'slotseq') or '0'
    saved = {node = uid, job = j.id, slot = tonumber(slot), lane = lane}
    redis.call('HSET', KEYS[1], 'saving', table.concat({uid, j.id, slot, lane}, '|'))
  end
  local over = {cpus = node.cpus - need.cpus, mem = node.mem - mem, gpus = node.gpus - shut - need.gpus}
  local slots = redis.call('HKEYS', key('slots', uid))
  for k = 1, #slots do
    if tonumber(slots[k]) > saved.slot then
      local b = load_batch(uid, slots[k])
      local _, devices = string.gsub(b.gpus, '%d+', '')
      over.cpus, over.mem, over.gpus = over.cpus - b.cpus, over.mem - b.mem, over.gpus - devices
    end
  end
  return over
end

-- Lanes by the rank of their heads; at most 64 are looked at, the next claim goes on from there.
local from = tonumber(redis.call('HGET', key('node', uid), 'lane_from') or 0)
local lanes = redis.call('ZRANGE', P .. 'lanes', from, from + 63)
local i, over = 1, nil
if node.state == 'up' then
  while i <= #lanes and #batches < math.min(most, MOST_BATCHES) and budget > 0 and node.cpus_free > 0 do
    local need = parse_lane(lanes[i])
    local j, class, member
    local is_free = fits(need, node) and (not over or need.cpus <= over.cpus
      and booked_mem(need, node) <= over.mem and need.gpus <= over.gpus)
    local may = is_free and may_hold(lanes[i], need) or 0
    local saves = not is_free and not over and save_room(lanes[i], need)
    over = over or saves or nil
    if may > 0 then j, class, member = head(lanes[i]) end
    local good, took = false, nil
    if j then good, took = pcall(take, j, need, class, may) end
    if j and not good then set_aside(lanes[i], member) end
    if took and over then
      over.cpus, over.mem, over.gpus = over.cpus - need.cpus, over.mem - booked_mem(need, node), over.gpus - need.gpus
    end
    local s = saving()
    -- What was saved for is taken, or passed over for another reason than room.
    if s and not saves and s.lane == lanes[i] and (took or s.node == uid) then end_saving(uid) end
    if not took then i = i + 1
    elseif lanes[i + 1] then
      -- Another lane's head may rank before what this lane now has in front.
      local now_first = redis.call('ZSCORE', P .. 'lanes', lanes[i])
      if not now_first or tonumber(now_first) > tonumber(redis.call('ZSCORE', P .. 'lanes', lanes[i + 1]) or 0) then
        lanes = redis.call('ZRANGE', P .. 'lanes', from, from + 63)
        i, over = 1, nil
      end
    end
  end
end
for _, j in pairs(changed) do save(j) end
save_free(node)

-- With room left the node is idle from now on, so that whatever comes wakes it; `at_end` says
-- that nothing is left to look at now.
local has_room = #batches < most and node.state == 'up'
local at_end = has_room and budget > 0 and #batches < MOST_BATCHES and #lanes < 64 and not unsure
redis.call('HSET', key('node', uid), 'lane_from', (has_room and #lanes == 64 and i > 64) and from + 64 or 0)
if has_room then redis.call('ZADD', P .. 'idle', SERVED, uid) else redis.call('ZREM', P .. 'idle', uid) end
local due = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
due = tonumber(due[2] or 0)
local soon = built and built.rate_soon
if soon and (due == 0 or soon < due) then due = soon end
local reply, slots = {'ok', NOW, at_end and 1 or has_room and 2 or 0, due}, {}
for k = 1, #batches do
  slots[k] = batches[k].slot
  reply[#reply + 1] = show(batches[k], jobs[batches[k].job].uid, jobs[batches[k].job].ver)
end
redis.call('HSET', key('node', uid), 'req', ARGV[4], 'reply', table.concat(slots, ','))
return reply
