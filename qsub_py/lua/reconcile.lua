-- Compare what a node holds with what the store thinks that it holds.
-- What the store does not know and nobody else has is taken back, work intact, unless the node was
-- told to cancel it; what the node does not know never began and is pending again.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id, is last page (0 or 1), all slots it holds ("3,4"),
--       then groups of 6: slot, job, uid, first, count, "attempt:epoch:gpus:class"
-- Returns {'ok', mask, ...}, a string of '1' (still yours) and '0' (stop it) for each batch;
--         {'more'}: it holds a lot that the node does not know, send the same again;
--         {'RUNID'} or {'FENCED'}: say hello first.
-- Replay: what was taken back is the node's, what was dropped is gone; nothing changes.
--- @include head job node batch

local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
local node = load_node(uid)

-- Devices for a batch that is taken back: those the agent names, for these it uses, whoever else
-- has them; else any that are free.
local function devices(count, named)
  local chosen, taken, rest = {}, {}, {}
  for g in string.gmatch(named, '%d+') do chosen[#chosen + 1], taken[g] = g, true end
  for _, g in ipairs(node.gpus_free) do
    if not taken[g] then rest[#rest + 1] = g end
  end
  while #chosen < count and #rest > 0 do chosen[#chosen + 1] = table.remove(rest, 1) end
  node.gpus_free, node.gpus_open = rest, 0
  for _, g in ipairs(rest) do
    if not has(node.gpus_busy, g) then node.gpus_open = node.gpus_open + 1 end
  end
  return table.concat(chosen, ',')
end

-- Whether the node was told to cancel this very attempt, and has not said that it did. Then it is
-- pending because it was rerun since.
local cancels
local function was_cancelled(slot, j, position)
  if not cancels then
    cancels = {}
    local standing = orders(uid)
    for i = 2, #standing, 2 do
      local good, told = pcall(cjson.decode, standing[i])
      if good and type(told) == 'table' and told.op == 'cancel' and told.upto then cancels[#cancels + 1] = told end
    end
  end
  for i = 1, #cancels do
    local told = cancels[i]
    if told.uid == j.uid and tonumber(slot) <= told.upto and told.first <= position
      and (told.last < 0 or position <= told.last) then return true end
  end
  return false
end

local function take_back(slot, j, first, count, attempt, epoch, gpus, class)
  if not class_lane(j, class) then class = 0 end
  -- A store that was rolled back may have forgotten that these were claimed.
  local to = math.min(first + count, j.n)
  if j.fate == 0 and to > j.cursor then pass(j, to) end
  local bytes, mask, out, taken = states_of(j.id, first, count), {}, {}, 0
  local nibble = math.min(attempt, 15)
  local has_tried = class > 0 or redis.call('EXISTS', key('rt', j.id)) == 1
  for i = 1, count do
    local byte = string.byte(bytes, i)
    local waits = math.floor(byte / 16) == WT
    if waits then byte = byte % 16 end
    local mine = j.fate == 0 and byte < 16 and byte <= nibble and first + i <= j.cursor
    if mine and nibble == 15 and byte == 15 then
      mine = tonumber(redis.call('HGET', key('at', j.id), first + i - 1) or 15) <= attempt
    end
    mine = mine and not was_cancelled(slot, j, first + i - 1)
    if mine then
      taken = taken + 1
      -- That what it needed had ended was forgotten, too.
      if waits then j.wait = j.wait - 1 else unplace(j, first + i - 1) end
      if has_tried then
        local retries, requeues, known = tries(j.id, first + i - 1)
        if known ~= class then remember(j, first + i - 1, retries, requeues, class) end
      end
    elseif waits then byte = WT * 16 + byte end
    mask[i] = mine and '1' or '0'
    out[i] = string.char(mine and 16 + nibble or byte)
    if mine and attempt >= 15 then redis.call('HSET', key('at', j.id), first + i - 1, attempt) end
  end
  mask = table.concat(mask)
  if taken > 0 then
    put_states(j, first, table.concat(out))
    j.c1 = j.c1 + taken
    local lane = parse_lane(class_lane(j, class))
    book_batch(uid, {slot = slot, job = j.id, first = first, count = count, attempt = attempt, epoch = epoch,
      start = NOW, cpus = lane.cpus, mem = booked_mem(lane, node), gpus = devices(lane.gpus, gpus),
      left = taken, mask = taken < count and mask or '', class = class,
      licenses = lane.licenses, owner = lane.owner, charge = j.charge}, node)
  end
  settle(j)
  return mask
end

-- A store that was rolled back must not give out the numbers of slots that are held.
local function pass_slot(slot)
  if tonumber(slot) > tonumber(redis.call('HGET', key('node', uid), 'slotseq') or 0) then
    redis.call('HSET', key('node', uid), 'slotseq', slot)
  end
end

-- First what the node does not know, so that its tasks may be taken back in another batch.
local slots, holds, dropped = redis.call('HKEYS', key('slots', uid)), {}, 0
for slot in string.gmatch(ARGV[5], '%d+') do holds[slot] = true end
for i = 1, #slots do
  if not holds[slots[i]] then
    if dropped >= MOST_DROPPED then
      save_free(node)
      return {'more'}
    end
    local b = load_batch(uid, slots[i])
    dropped = dropped + cost(b)
    drop_batch(uid, b, RETURNED, node)
  end
end

local reply = {'ok'}
for i = 6, #ARGV, 6 do
  local slot, id, first, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local attempt, epoch, gpus, class = string.match(ARGV[i + 5], '(%d+):(%d+):?([%d,]*):?(%d*)')
  attempt, epoch, class = tonumber(attempt), tonumber(epoch), tonumber(class) or 0
  pass_slot(slot)
  local b, j = load_batch(uid, slot), load(id)
  if not j or j.uid ~= ARGV[i + 2] then
    reply[#reply + 1] = string.rep('0', count)
  elseif b and b.job == id and b.first == first and b.attempt == attempt and b.epoch == epoch then
    local mask, bytes = {}, states_of(id, first, count)
    for k = 1, count do mask[k] = owns(b, k, string.byte(bytes, k)) and '1' or '0' end
    reply[#reply + 1] = table.concat(mask)
  elseif b then
    reply[#reply + 1] = string.rep('0', count)
  else
    reply[#reply + 1] = take_back(slot, j, first, count, attempt, epoch, gpus, class)
  end
end
if ARGV[4] == '1' then redis.call('SREM', P .. 'rec', uid) end
save_free(node)
return reply
