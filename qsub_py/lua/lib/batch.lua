-- Batches: what a slot of a node holds, and how their tasks leave it.
-- slots:<node> slot ->
-- "job|first|count|attempt|epoch|start|cpus|mem|gpus|left|mask|class|owner|charge|licences"; mask has
-- a '0' for each task that is not this batch's any more (another may run it, after a rollback even
-- under the same attempt number); '' means that all are. `charge`: seconds that its owner paid for each
-- cpu. Without licences they are not written.
--- @include retry
local LOST, RETURNED = 15, 14

local function load_batch(uid, slot)
  local text = redis.call('HGET', key('slots', uid), slot)
  if not text then return nil end
  local part = {}
  for word in string.gmatch(text .. '|', '([^|]*)|') do part[#part + 1] = word end
  return {slot = slot, job = part[1], first = tonumber(part[2]), count = tonumber(part[3]),
    attempt = tonumber(part[4]), epoch = tonumber(part[5]), start = part[6], cpus = tonumber(part[7]),
    mem = tonumber(part[8]), gpus = part[9], left = tonumber(part[10]), mask = part[11] or '',
    class = tonumber(part[12] or 0), owner = part[13] or '', charge = tonumber(part[14] or 0),
    licenses = part[15] or ''}
end

local function save_batch(uid, b)
  local charge = b.licenses == '' and b.charge or b.charge .. '|' .. b.licenses
  redis.call('HSET', key('slots', uid), b.slot, table.concat({b.job, string.format('%.0f', b.first),
    b.count, b.attempt, b.epoch, b.start, b.cpus, string.format('%.0f', b.mem), b.gpus, b.left, b.mask,
    b.class, b.owner, charge}, '|'))
end

-- Whether the batch runs its i-th task, whose byte this is.
local function owns(b, i, byte)
  local state = math.floor(byte / 16)
  return i <= b.count and string.sub(b.mask, i, i) ~= '0' and (state == R or state == CG)
    and byte % 16 == math.min(b.attempt, 15)
end

local function free_batch(uid, b, node)
  if b.is_free then return end
  b.is_free = true
  free_terms(b)
  redis.call('HDEL', key('slots', uid), b.slot)
  if redis.call('HINCRBY', key('on', b.job), uid, -1) <= 0 then redis.call('HDEL', key('on', b.job), uid) end
  if not node then return settle_terms() end
  node.cpus_free = node.cpus_free + b.cpus
  node.mem_free = node.mem_free + b.mem
  if b.gpus == '' then return end
  -- A batch that was taken back may hold a device that another one holds too.
  local still = ','
  for _, text in ipairs(redis.call('HVALS', key('slots', uid))) do
    still = still .. string.match(text, '^' .. string.rep('[^|]*|', 8) .. '([^|]*)') .. ','
  end
  for g in string.gmatch(b.gpus, '%d+') do
    if not has(still, g) then give_gpu(node, g) end
  end
end

local function book_batch(uid, b, node)
  redis.call('HINCRBY', key('on', b.job), uid, 1)
  save_batch(uid, b)
  book_terms(b)
  node.cpus_free = node.cpus_free - b.cpus
  node.mem_free = node.mem_free - b.mem
end

-- What becomes of one running task that did not end by itself: state code and attempt nibble.
-- `uncount`: it never began and leaves the batch for good, so its number may be used again.
local function after_loss(j, pos, byte, code, attempt, uncount)
  local nibble = byte % 16
  if j.fate ~= 0 then return j.fate, nibble end
  if byte >= CG * 16 then return CA, nibble end
  if uncount then
    if nibble == 15 then
      local former = tonumber(redis.call('HGET', key('at', j.id), pos) or 15) - 1
      if former >= 15 then redis.call('HSET', key('at', j.id), pos, former) return PD, 15 end
      redis.call('HDEL', key('at', j.id), pos)
      return PD, 14
    end
    return PD, math.max(nibble - 1, 0)
  end
  if code == LOST then
    if j.requeue == 0 then return NF, nibble end
    -- An agent that joins again tells once more of a crash that was counted.
    local known = redis.call('HGET', key('ct', j.id), pos) or '0:0'
    local crashes, last = string.match(known, '(%d+):(%d+)')
    if attempt > tonumber(last) then crashes = crashes + 1 end
    redis.call('HSET', key('ct', j.id), pos, string.format('%d:%d', crashes, attempt))
    if tonumber(crashes) >= 3 then return NF, nibble end
  end
  return PD, nibble
end

-- Move tasks of batch `b` out of it. `codes` has a byte for each task of the batch from its
-- first: 0 stays, LOST, RETURNED, 13 (the lease lapsed), else the state it ended in, plus 16 times
-- what its node wishes (retry.lua).
-- Only tasks that this very batch still runs are touched, so a replay does nothing; other codes
-- than these say nothing.
-- Returns the accepted ends as such a string, and how many ended, were put back, were accepted.
local function leave(j, b, codes)
  local bytes = states_of(j.id, b.first, b.count)
  -- The usual case at once: all run, and all ended alike.
  local nibble, end_code = math.min(b.attempt, 15), string.byte(codes) or 0
  if b.mask == '' and j.fate == 0 and end_code >= CD and end_code <= DF
    and codes == string.rep(string.char(end_code), b.count)
    and bytes == string.rep(string.char(R * 16 + nibble), b.count) then
    redis.call('SETRANGE', key('st', j.id), b.first,
      string.rep(string.char(end_code * 16 + nibble), b.count))
    tell(j, b.first, b.first + b.count - 1)
    j.c1, j['c' .. end_code] = j.c1 - b.count, j['c' .. end_code] + b.count
    b.left = b.left - b.count
    return codes, b.count, 0, b.count
  end
  local out, ok, keeps, again, ended = {}, {}, {}, {}, 0
  local accepted, count, used, unbegun = 0, b.count, nil, 0
  -- What is returned from the end of the batch leaves it: a replay cannot touch it there, even
  -- while another node runs it under the same attempt number.
  local stays = count
  while stays > 0 and string.byte(codes, stays) == RETURNED do stays = stays - 1 end
  for i = 1, count do
    local byte, said = string.byte(bytes, i), string.byte(codes, i) or 0
    local code, wish = said % 16, math.floor(said / 16)
    if wish > 0 and not may_wish(code, wish) then code = 0 end
    ok[i], keeps[i] = '\0', string.sub(b.mask, i, i) == '0' and '0' or '1'
    if (code >= CD and code <= DF or code >= 13 and code <= LOST) and owns(b, i, byte) then
      accepted, keeps[i] = accepted + 1, '0'
      local from = (j.fate ~= 0 or byte >= CG * 16) and 'c2' or 'c1'
      local to, number = code, byte % 16
      if code == RETURNED then unbegun = unbegun + 1 end
      if code >= 13 then to, number = after_loss(j, b.first + i - 1, byte, code, b.attempt, i > stays) end
      j[from] = j[from] - 1
      local place
      if from == 'c1' and (wish > 0 or to == NF) then
        used = used or tries_of(j, b.first, count)
        to, place = second_chance(j, b.first + i - 1, b.class, to, wish, used[i])
      end
      if to == PD then
        if place then put_back(j, b.first + i - 1, place) else again[#again + 1] = i - 1 end
      else
        j['c' .. to] = j['c' .. to] + 1
        ok[i] = string.char(to)
        ended = ended + 1
      end
      byte = to * 16 + number
    end
    out[i] = string.char(byte)
  end
  if accepted > 0 then
    redis.call('SETRANGE', key('st', j.id), b.first, table.concat(out))
  end
  write_retries(j)
  if ended > 0 then tell(j, b.first, b.first + count - 1) end
  local rate = unbegun > 0 and parse_lane(j.lane).rate or ''
  if rate ~= '' then policy().spend_rate(rate, -unbegun) end
  b.count, b.left, b.mask = stays, b.left - accepted, table.concat(keeps, '', 1, stays)
  local i = 1
  while i <= #again do
    local n = i
    while again[n + 1] and again[n + 1] == again[n] + 1 do n = n + 1 end
    push_again(j.id, b.first + again[i], n - i + 1, true, b.class)
    i = n + 1
  end
  if b.class > 0 then j.grown = j.grown + #again end
  return table.concat(ok), ended, accepted - ended, accepted
end

local function failed_tasks(c) return c.c4 + c.c6 + c.c7 + c.c8 end

-- Give up a job of which more tasks have failed than may (maxfails: "5", "10%"). That its nodes
-- shall end what they run is told by the next slice of `todo`.
local function stop_hopeless(j)
  local most = redis.call('HGET', key('j', j.id), 'maxfails')
  if not most or ended_tasks(j) == j.n then return end
  local number, percent = string.match(most, '(%d+)(%%?)')
  number = tonumber(number)
  if failed_tasks(j) <= (percent == '%' and j.n * number / 100 or number) then return end
  redis.call('HSET', key('j', j.id), 'why', 'more than ' .. most .. ' of its tasks failed (--max-fails)')
  doom(j, CA)
  if j.c2 > 0 then redis.call('RPUSH', P .. 'todo', 'tell|' .. j.id .. '|0|0|--max-fails') end
end

-- Write down what `leave` did to a job and its batch. `was_ready`: before it, so that nodes hear
-- of a job whose limit has room again.
local function left_batch(uid, b, j, node, again, was_ready)
  if b.left <= 0 then free_batch(uid, b, node) else save_batch(uid, b) end
  if j.fate == 0 and failed_tasks(j) > failed_tasks(j.was) then stop_hopeless(j) end
  settle(j)
  if again > 0 or not was_ready then offer(j) end
end

-- What one script may drop: a task costs one, a batch about as much as eight.
local function cost(b) return b.count + 8 end
local MOST_DROPPED = 512

-- Take a whole batch away from a node (lease lapsed, or the agent does not know it). Damaged keys
-- of one job must not keep the others' work from moving on.
local function drop_batch(uid, b, code, node)
  local j = load(b.job)
  local good = j and pcall(function()
    local was_ready = is_ready(j)
    local _, ended, again = leave(j, b, string.rep(string.char(code), b.count))
    b.left = 0
    if ended > 0 then notice(j) end
    left_batch(uid, b, j, node, again, was_ready)
  end)
  if not good then
    redis.call('HDEL', key('slots', uid), b.slot)
    pcall(free_batch, uid, b, node)
  end
end

-- A node that is gone cannot answer for what was cancelled of a batch that nobody may reissue: that
-- ends here. The rest stays its own.
local function bury_batch(uid, b, j)
  local bytes, codes = states_of(j.id, b.first, b.count), {}
  for i = 1, #bytes do codes[i] = (j.fate ~= 0 or string.byte(bytes, i) >= CG * 16) and '\13' or '\0' end
  local _, ended = leave(j, b, table.concat(codes))
  if ended == 0 then return end
  notice(j)
  if b.left <= 0 then free_batch(uid, b, nil) else save_batch(uid, b) end
end
