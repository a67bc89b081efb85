-- What waits for what: whole jobs for jobs or tasks, single tasks for single tasks.
--
-- A decision is a look at states, never a count of events: whoever hears that something ended
-- evaluates anew what needs it. So hearing it twice, late or after a rollback does no harm, and a
-- parent that runs again undoes nothing.
--
-- Conditions hold a whole job (`dep`: how many are not met; with `depor` one is enough).
--   j:<id> after    what was asked: "kind:job:first:count:label,..." (count 0: the whole job)
--   deps:<id>       hash, number of a condition -> the same and its state: 0 open, 1 met, 2 never
--   kids:<id>       zset, "child:number" of conditions on the whole job -> child
--   A condition once met stays so. One that can never be met gives up the job: DEP_FAILED.
-- Inputs hold single tasks (byte WT; `wait` counts them). gate 1: of an open job of calls,
-- each marked when it is appended; 2: of a whole array, also all past the cursor.
--   in:<id>         stream, ID first position + 1: n tasks and their inputs "job:from:count:step;..."
--                   task i of the group needs tasks from + i * step, count of them, COMPLETED
--   ptr:<id>        hash, position -> how far the many inputs of one task were found complete
-- Who needs single tasks of a job, by conditions (d and their number) or inputs (first position):
--   uses:<id>       zset, "block:child:which:from:count:step:n" -> first needed position in that
--                   block of 256, so that the end of some tasks finds those that need them;
--                   NEAR + first position where fewer than 16 are needed; -1 where it is more
--                   than 64 blocks
-- A singleton is also in `same:<sha1 of owner and name>` (zset, job -> job), and may run when it
-- is the first there.
--
-- When tasks end, the script that ends them pushes a record into `todo` (uses: tasks first..last;
-- kids: the job is over, or its first task failed; line: a singleton is over). A slice of such a
-- record looks at a few children; those that end by it push records of their own, so a tree of
-- any size fails in bounded steps, whoever dies. Records of `submit` and
-- `append` (enroll, weigh) and of `retree` (rearm) are done in the same way.
local BLOCK, LONG, MANY, FEW, NEAR = 256, 64, 16, 16, 1099511627776
-- What one script may spend on it: a unit is about 50 microseconds.
local BUDGET = 24

-- Jobs of this slice, each loaded once; `touched` ones are written down at its end.
local met, touched, spent = {}, {}, 0
local function known(id)
  if met[id] == nil then met[id] = load(id) or false end
  return met[id]
end
local function touch(j) touched[j.id] = j end
local function spend(units) spent = spent + units end

-- A script may have 200 local names: of what follows only these are seen outside.
local write_down, enroll_slice, add_groups, set_gate, begin_waiting, rearm, dep_slice
do

local TERMINAL, ENDED, DONE, BAD = '[^0-\159]', '[0-\159]', '[^0-?]', '[@-\159]'
local WORST = {F, OOM, TO, NF, DF, CA}
local NAME = {[CD] = 'COMPLETED', [F] = 'FAILED', [CA] = 'CANCELLED', [TO] = 'TIMEOUT',
  [OOM] = 'OUT_OF_MEMORY', [NF] = 'NODE_FAIL', [DF] = 'DEP_FAILED'}

function write_down()
  for _, j in pairs(touched) do
    settle(j)
    offer(j)
  end
  met, touched = {}, {}
end

-- -- conditions on whole jobs ---------------------------------------------------------------

local function read_condition(text)
  local kind, id, first, count, label, state = string.match(text, '([^:]*):([^:]*):([^:]*):([^:]*):([^:]*):?(.*)')
  return {kind = kind, id = id, first = tonumber(first), count = tonumber(count), label = label,
    state = tonumber(state) or 0}
end

-- 0 not yet, 1 met, 2 can never be met.
local function verdict_on(c, j)
  if c.kind == 'singleton' then
    local name = redis.call('HGET', key('j', j.id), 'line')
    return redis.call('ZRANGE', name, 0, 0)[1] == j.id and 1 or 0
  end
  local k = known(c.id)
  if not k then return c.kind == 'afterany' and 1 or 2 end
  local over, bad
  if c.count == 0 then
    over, bad = k.open == 0 and ended_tasks(k) == k.n, bad_tasks(k) > 0
    if c.kind == 'after' then over = has_started(k) end
  else
    local text = shown(k, c.first, c.count)
    over, bad = not string.find(text, TERMINAL), string.find(text, BAD) ~= nil
    spend(c.count / 4096)
  end
  if c.kind == 'afterok' then return bad and 2 or over and 1 or 0 end
  if c.kind == 'afternotok' then return over and (bad and 1 or 2) or 0 end
  return over and 1 or 0
end

-- Why a condition can never be met, for people.
local function excuse(c)
  local k, how = known(c.id), nil
  if not k then how = 'job ' .. c.id .. ' is gone'
  elseif c.kind == 'afternotok' then how = (c.count == 0 and 'job ' or 'task ') .. c.label .. ' COMPLETED'
  elseif c.count == 0 then
    for i = 1, #WORST do
      if not how and k['c' .. WORST[i]] > 0 then how = 'job ' .. c.label .. ' ' .. NAME[WORST[i]] end
    end
  else
    local text = shown(k, c.first, c.count)
    local at = string.find(text, BAD)
    local code = at and math.floor(string.byte(text, at) / 16)
    how = (c.count == 1 and 'task ' or 'a task of ') .. c.label .. ' ' .. (NAME[code] or 'failed')
  end
  return string.format('%s:%s failed: %s', c.kind, c.label, how or 'job ' .. c.label .. ' failed')
end

-- The whole job can never run. What `rearm` needs to undo it: `lost` tasks, and when it may begin.
local function dep_fail(j, why)
  local begin, expire = j.begin, j.expire
  redis.call('HSET', key('j', j.id), 'why', why, 'lost', doom(j, DF))
  j.begin, j.expire = begin, expire
  touch(j)
  spend(1)
end

-- Write down what a condition of job `j` has come to, once.
local function decide(j, number, c)
  local verdict = verdict_on(c, j)
  local text = table.concat({c.kind, c.id, string.format('%.0f', c.first), string.format('%.0f', c.count), c.label}, ':')
  redis.call('HSET', key('deps', j.id), number, text .. ':' .. verdict)
  if verdict == 0 or j.dep == 0 or j.fate ~= 0 then return end
  touch(j)
  local is_or = redis.call('HEXISTS', key('j', j.id), 'depor') == 1
  j.dep = (verdict == 1 and is_or) and 0 or j.dep - 1
  if verdict == 2 and (not is_or or j.dep == 0) then dep_fail(j, excuse(c)) end
end

local function hear(child, number)
  spend(2)
  local j, text = known(child), redis.call('HGET', key('deps', child), number)
  if not j or not text then return end
  local c = read_condition(text)
  if c.state == 0 then decide(j, number, c) end
end

-- Only this field: what else changed of `k` is for `settle` to compare.
local function set_kids(k, kids)
  k.kids, k.was.kids = kids, kids
  redis.call('HSET', key('j', k.id), 'kids', kids)
end

-- Let job `k` know that something needs tasks from..to of it.
local function enroll_use(k, member, from, to)
  if math.floor(k.kids / 2) % 2 == 0 then
    set_kids(k, k.kids + 2)
  end
  if to - from < FEW then
    redis.call('ZADD', key('uses', k.id), string.format('%.0f', NEAR + from), '-:' .. member)
    return
  end
  local low, high = math.floor(from / BLOCK), math.floor(to / BLOCK)
  if high - low > LONG then
    redis.call('ZADD', key('uses', k.id), -1, '-:' .. member)
    return
  end
  for block = low, high do
    redis.call('ZADD', key('uses', k.id), math.max(from, block * BLOCK), string.format('%.0f:', block) .. member)
  end
end

local function enroll_condition(j, number, c)
  local k = c.kind ~= 'singleton' and known(c.id)
  local old = redis.call('HGET', key('deps', j.id), number)
  -- One that was met by a job which is gone now was met.
  if old and not k and c.kind ~= 'singleton' and read_condition(old).state == 1 then c.kind = 'afterany' end
  if k and c.count == 0 then
    if k.kids % 2 == 0 then
      set_kids(k, k.kids + 1)
    end
    redis.call('ZADD', key('kids', k.id), j.id, j.id .. ':' .. number)
  elseif k then
    enroll_use(k, table.concat({j.id, 'd' .. number, string.format('%.0f', c.first),
      string.format('%.0f', c.count), 0, 1}, ':'), c.first, c.first + c.count - 1)
  end
  decide(j, number, c)
end

-- Enroll the conditions of a job from byte `at` of `after`, number `number` on, as many as the
-- budget has room for; returns where to go on, or nil.
function enroll_slice(j, number, at)
  local text = redis.call('HGET', key('j', j.id), 'after') or ''
  while spent < BUDGET do
    local first, last, one = string.find(text, '([^,]+),?', at)
    if not first or j.fate ~= 0 then return nil end
    enroll_condition(j, number, read_condition(one))
    spend(1)
    number, at = number + 1, last + 1
  end
  return number, at
end

-- -- inputs of single tasks -----------------------------------------------------------------

local EDGE = '(%d+):(%d+):(%d+):(%d+);?'

local function read_group(entry)
  local g = {first = tonumber(string.match(entry[1], '%d+')) - 1}
  for i = 1, #entry[2], 2 do g[entry[2][i]] = entry[2][i + 1] end
  g.n = tonumber(g.n)
  return g
end

-- The group of tasks that holds the position, or nil; then also where the next group begins.
local function group_at(j, position)
  local id = string.format('%.0f-0', position + 1)
  local entry = redis.call('XREVRANGE', key('in', j.id), id, '-', 'COUNT', 1)[1]
  local g = entry and read_group(entry)
  if g and position < g.first + g.n then return g end
  entry = redis.call('XRANGE', key('in', j.id), id, '+', 'COUNT', 1)[1]
  return nil, entry and read_group(entry).first or j.n
end

-- What one input says of the tasks p..q of a group: nil when all have theirs, else by task (from 1)
-- 1 not yet, 2 never; NOBODY when it is the only input and none of it has ended.
local NOBODY = {}
local function judge_input(g, p, q, id, from, count, step, out)
  local k = known(id)
  local start = from + (p - g.first) * step
  local size = (q - p) * step + count
  local text = k and shown(k, start, size) or string.char(F * 16)
  -- What a closed job never got will never be there.
  if k and k.open == 0 and start + size > k.n then
    local there = math.max(0, k.n - start)
    text = string.sub(text, 1, there) .. string.rep(string.char(F * 16), size - there)
  end
  spend(#text / 4096)
  if k and not string.find(text, DONE) then return out end
  if g.k == '1' and not string.find(text, ENDED) then return NOBODY end
  out = out or {}
  if step == 0 or not k then
    local worst = string.find(text, BAD) and 2 or 1
    for i = 1, q - p + 1 do out[i] = math.max(out[i] or 0, worst) end
    return out
  end
  spend((q - p) / 400)
  if step == 1 and count == 1 then
    for i = 1, #text do
      local byte = string.byte(text, i)
      if byte < 48 or byte > 159 then out[i] = math.max(out[i] or 0, 1)
      elseif byte > 63 then out[i] = 2 end
    end
    return out
  end
  for i = 1, q - p + 1 do
    local part = string.sub(text, (i - 1) * step + 1, (i - 1) * step + count)
    if string.find(part, DONE) then out[i] = math.max(out[i] or 0, string.find(part, BAD) and 2 or 1) end
  end
  return out
end

-- The same for one task of very many inputs: they are passed once, and `ptr` says how far.
local function judge_many(j, g)
  local at = tonumber(redis.call('HGET', key('ptr', j.id), g.first) or 1)
  while true do
    local first, last, id, from, count, step = string.find(g.e, EDGE, at)
    if not first then
      redis.call('HDEL', key('ptr', j.id), g.first)
      return nil
    end
    if spent >= BUDGET then
      redis.call('HSET', key('ptr', j.id), g.first, at)
      push_todo('weigh', j.id, g.first, g.first, 'on')
      return {1}
    end
    spend(0.1)
    local out = judge_input(g, g.first, g.first, id, tonumber(from), tonumber(count), tonumber(step), nil)
    if out then
      redis.call('HSET', key('ptr', j.id), g.first, at)
      return out
    end
    at = last + 1
  end
end

-- Let go, or fail, the tasks p..q that still wait: by task (from 1) 1 not yet, 2 never; nil is all.
local function apply(j, p, q, says)
  if j.fate ~= 0 or says == NOBODY then return end
  local any = says == nil
  for i = 1, says and q - p + 1 or 0 do any = any or says[i] ~= 1 end
  if not any then return end
  if j.gate == 2 and q >= j.cursor then
    pass(j, q + 1)
    touch(j)
  end
  local bytes, out, failed, freed, run = states_of(j.id, p, q - p + 1), {}, 0, 0, 0
  if not says and bytes == string.rep(string.char(WT * 16), #bytes) then
    redis.call('SETRANGE', key('st', j.id), p, string.rep('\0', #bytes))
    push_again(j.id, p, #bytes, false)
    j.wait = j.wait - #bytes
    touch(j)
    return spend(1)
  end
  for i = 1, #bytes do
    local byte, free = string.byte(bytes, i), false
    local verdict = says and says[i] or 0
    if verdict ~= 1 and math.floor(byte / 16) == WT then
      if verdict == 2 then byte, failed = DF * 16 + byte % 16, failed + 1
      else byte, freed, free = byte % 16, freed + 1, true end
    end
    if free then run = run + 1
    elseif run > 0 then
      push_again(j.id, p + i - 1 - run, run, false)
      spend(0.1)
      run = 0
    end
    out[i] = string.char(byte)
  end
  if run > 0 then push_again(j.id, q + 1 - run, run, false) end
  if freed + failed == 0 then return end
  spend(1 + #bytes / 64)
  redis.call('SETRANGE', key('st', j.id), p, table.concat(out))
  j.wait, j.c9 = j.wait - freed - failed, j.c9 + failed
  touch(j)
  if failed > 0 then
    notice(j)
    tell(j, p, q)
  end
end

-- Look at tasks p..q of a group again. `hint`: the input that something ended of.
local function weigh(j, g, p, q, hint)
  spend(0.5)
  local says
  if g.n == 1 and tonumber(g.k) > MANY then
    if hint then says = judge_input(g, p, q, hint.id, hint.from, hint.count, hint.step, nil) end
    if not (says and says[1] == 2) then says = judge_many(j, g) end
  else
    for id, from, count, step in string.gmatch(g.e, EDGE) do
      says = judge_input(g, p, q, id, tonumber(from), tonumber(count), tonumber(step), says)
    end
  end
  apply(j, p, q, says)
end

-- Tell the jobs whose tasks a group needs, from byte `at` on; returns where to go on, or nil.
local function enroll_group(j, g, at)
  while true do
    local first, last, id, from, count, step = string.find(g.e, EDGE, at)
    if not first then return nil end
    if at > 1 and spent >= BUDGET then return at end
    local k = known(id)
    from, count, step = tonumber(from), tonumber(count), tonumber(step)
    if k then
      local member = table.concat({j.id, string.format('%.0f', g.first), string.format('%.0f', from),
        string.format('%.0f', count), step, string.format('%.0f', g.n)}, ':')
      enroll_use(k, member, from, from + (g.n - 1) * step + count - 1)
    end
    spend(0.3)
    -- That one of very many never comes must be heard at once.
    if tonumber(g.k) > MANY then
      local says = judge_input(g, g.first, g.first, id, from, count, step, nil)
      if says and says[1] == 2 then apply(j, g.first, g.first, says) end
    end
    at = last + 1
  end
end

-- Look at tasks a..b of a job anew, enrolling their inputs; returns where to go on, or nil.
local WINDOW = 1024
local function weigh_slice(j, a, b, word)
  local at = tonumber(word) or 1
  if word == 'on' then
    local g = group_at(j, a)
    if g then weigh(j, g, a, a, nil) end
    return nil
  end
  while a <= b and spent < BUDGET do
    local g, next_one = group_at(j, a)
    if not g then
      local stop = math.min(b, next_one - 1, a + WINDOW - 1)
      apply(j, a, stop, nil)
      a = stop + 1
    else
      local stop = math.min(b, g.first + g.n - 1, a + WINDOW - 1)
      if a == g.first or at > 1 then
        at = enroll_group(j, g, at)
        if at then return a, tostring(at) end
        redis.call('HDEL', key('ptr', j.id), g.first)
      end
      at = 1
      weigh(j, g, a, stop, nil)
      a = stop + 1
    end
    spend(0.3)
  end
  if a <= b then return a, '1' end
end

-- Keep the groups "first,n,k=edges|..." of a job (k: how many edges), in order.
function add_groups(j, text, each)
  for first, n, k, edges in string.gmatch(text, '(%d+),(%d+),(%d+)=([^|]*)') do
    redis.call('XADD', key('in', j.id), string.format('%.0f-0', first + 1), 'n', n, 'k', k, 'e', edges)
    if each then each(tonumber(first), tonumber(n)) end
  end
end

-- Set how tasks of a job may wait for others.
function set_gate(j, gate)
  j.gate = gate
  redis.call('HSET', key('j', j.id), 'gate', gate)
end

-- Look at tasks a..b of a job that is being changed by this script, and write it down.
function begin_waiting(j, a, b)
  met[j.id] = j
  touch(j)
  local position, at
  if a <= b then position, at = weigh_slice(j, a, b, '1') end
  if position then push_todo('weigh', j.id, position, b, at) end
  write_down()
end

-- -- who hears of ends ----------------------------------------------------------------------

-- Members of `uses` that need one of the tasks x..y, from the `offset`th on.
local PAGE = 8
local function users(id, x, y, offset)
  local spans = {{-1, -1}, {math.floor(x / BLOCK) * BLOCK, y}, {NEAR + x - FEW + 1, NEAR + y}}
  for i = 1, 3 do
    local low, high = string.format('%.0f', spans[i][1]), string.format('%.0f', spans[i][2])
    local found = redis.call('ZRANGEBYSCORE', key('uses', id), low, high, 'LIMIT', offset, PAGE)
    if #found > 0 then return found end
    offset = offset - redis.call('ZCOUNT', key('uses', id), low, high)
  end
  return {}
end

-- Call `each(child, group or condition, p, q, hint)` for what a member says of tasks x..y.
local function each_user(k, member, x, y, each, on_condition)
  local block, child, which, from, count, step, n = string.match(member,
    '([^:]*):([^:]*):([^:]*):([^:]*):([^:]*):([^:]*):([^:]*)')
  spend(0.1)
  from, count, step, n = tonumber(from), tonumber(count), tonumber(step), tonumber(n)
  -- One that stands in several blocks of these is for the first to look at.
  if block ~= '-' and tonumber(block) > math.max(math.floor(x / BLOCK), math.floor(from / BLOCK)) then return end
  x, y = math.max(x, from), math.min(y, from + (n - 1) * step + count - 1)
  if x > y then return end
  if string.sub(which, 1, 1) == 'd' then return on_condition(child, string.sub(which, 2)) end
  local j = known(child)
  local g = j and group_at(j, tonumber(which))
  if not g then return end
  spend(0.3)
  local p, q = g.first, g.first + g.n - 1
  if step > 0 then
    p = math.max(p, g.first + math.ceil((x - from - count + 1) / step))
    q = math.min(q, g.first + math.floor((y - from) / step))
  end
  if p <= q then each(j, g, p, q, {id = k.id, from = from, count = count, step = step}) end
end

-- Go through all that needs one of the tasks a..b; returns (position, offset) to go on, or nil.
local function uses_slice(k, a, b, offset, each, on_condition)
  while a <= b and spent < BUDGET do
    local y = math.min(b, a + WINDOW - 1)
    local found = users(k.id, a, y, offset)
    for i = 1, #found do
      if spent >= BUDGET then return a, tostring(offset) end
      each_user(k, found[i], a, y, each, on_condition)
      offset = offset + 1
    end
    if #found == 0 then a, offset = y + 1, 0 end
    spend(0.1)
  end
  if a <= b then return a, tostring(offset) end
end

local function kids_slice(k, offset, each)
  while spent < BUDGET do
    local found = redis.call('ZRANGE', key('kids', k.id), offset, offset + PAGE - 1)
    if #found == 0 then return nil end
    for i = 1, #found do
      if spent >= BUDGET then return offset end
      each(string.match(found[i], '([^:]*):(.*)'))
      offset = offset + 1
    end
  end
  return offset
end

-- A singleton is over, or runs again: the first in its line may go.
local function line_slice(j, is_over)
  local line = redis.call('HGET', key('j', j.id), 'line')
  if not line then return end
  if is_over == 0 then redis.call('ZADD', line, j.id, j.id) else redis.call('ZREM', line, j.id) end
  local head = redis.call('ZRANGE', line, 0, 0)[1]
  if head then hear(head, 0) end
end

-- -- running a tree again -------------------------------------------------------------------

-- Undo that a job was given up for a condition, and look at all its conditions anew.
function rearm(j)
  if j.fate ~= DF then return end
  local lost, asked = unpack(redis.call('HMGET', key('j', j.id), 'lost', 'asked'))
  j.fate, j.c9, j.dep = 0, j.c9 - tonumber(lost or 0), tonumber(asked or 0)
  if j.begin <= NOW then j.begin = 0 end
  if j.expire <= NOW then j.expire = 0 end
  set_due(j)
  redis.call('HDEL', key('j', j.id), 'why', 'lost')
  touch(j)
  spend(2)
  -- In line again before it is asked whether it is the first.
  if j.kids >= 4 then redis.call('ZADD', redis.call('HGET', key('j', j.id), 'line'), j.id, j.id) end
  local number, at = enroll_slice(j, 0, 1)
  if number then push_todo('enroll', j.id, number, at, '') end
  if j.fate == 0 then
    if j.gate > 0 then push_todo('weigh', j.id, 0, j.n - 1, '1') end
    push_todo('rearm', j.id, 0, 0, '')
  end
end

-- Tasks p..q that failed for an input wait again; when that lasts, those that need them do too.
local function rearm_tasks(j, g, p, q)
  if j.fate ~= 0 then return end
  local bytes, out, n = states_of(j.id, p, q - p + 1), {}, 0
  for i = 1, #bytes do
    local byte = string.byte(bytes, i)
    if math.floor(byte / 16) == DF then byte, n = WT * 16 + byte % 16, n + 1 end
    out[i] = string.char(byte)
  end
  if n == 0 then return end
  redis.call('SETRANGE', key('st', j.id), p, table.concat(out))
  redis.call('HDEL', key('ptr', j.id), g.first)
  j.c9, j.wait = j.c9 - n, j.wait + n
  touch(j)
  local failed = j.c9
  if g.n == 1 and tonumber(g.k) > MANY then push_todo('weigh', j.id, p, q, '1') else weigh(j, g, p, q, nil) end
  if j.c9 - failed < n then j.is_rearmed = true end
end

local function rearm_slice(k, a, offset)
  if a == 0 then
    local rest = kids_slice(k, offset, function(child)
      spend(1)
      local j = known(child)
      if j then rearm(j) end
    end)
    if rest then return 0, tostring(rest) end
    a, offset = 1, 0
  end
  local position, where = uses_slice(k, a - 1, k.n - 1, offset, function(j, g, p, q)
    rearm_tasks(j, g, p, q)
    if j.is_rearmed and not j.is_followed then
      j.is_followed = true
      push_todo('rearm', j.id, 0, 0, '')
    end
  end, function(child)
    local j = known(child)
    if j then rearm(j) end
  end)
  if position then return position + 1, where end
end

-- One slice of a record; returns (a, b, word) of what is left of it, or nil.
function dep_slice(verb, j, a, b, word)
  if verb == 'kids' then
    local rest = kids_slice(j, a, hear)
    if rest then return rest, 0, '' end
  elseif verb == 'uses' then
    local position, offset = uses_slice(j, a, b, tonumber(word), weigh, hear)
    if position then return position, b, offset end
  elseif verb == 'enroll' then
    local number, at = enroll_slice(j, a, b)
    if number then return number, at, '' end
  elseif verb == 'weigh' then
    local position, at = weigh_slice(j, a, math.min(b, j.n - 1), word)
    if position then return position, b, at end
  elseif verb == 'rearm' then
    local position, offset = rearm_slice(j, a, tonumber(word) or 0)
    if position then return position, b, offset end
  elseif verb == 'line' then line_slice(j, a) end
end

end
