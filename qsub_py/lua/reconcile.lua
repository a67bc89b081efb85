-- Compare what a node holds with what the store thinks that it holds.
-- What the store does not know and nobody else has is taken back, work intact; what the node
-- does not know never began and is pending again.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id, is last page (0 or 1), all slots it holds ("3,4"),
--       then groups of 6: slot, job, uid, first, count, "attempt:epoch"
-- Returns {'ok', mask, ...}, a string of '1' (still yours) and '0' (stop it) for each batch;
--         {'RUNID'} or {'FENCED'}: say hello first.
-- Replay: what was taken back is the node's, what was dropped is gone; nothing changes.
--- @include head job node batch

local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
local node = load_node(uid)

-- Make [first, first + count) claimable history again when the store forgot that it was claimed.
local function reach(j, first, count)
  if first < j.cursor or first + count > j.n then return end
  if first > j.cursor then push_again(j.id, j.cursor, first - j.cursor, true) end
  redis.call('SETRANGE', key('st', j.id), first + count - 1, '\0')
  j.cursor = first + count
end

local function take_back(slot, j, first, count, attempt, epoch)
  reach(j, first, count)
  local bytes, mask, out, taken = states_of(j.id, first, count), {}, {}, 0
  local nibble = math.min(attempt, 15)
  for i = 1, count do
    local byte = string.byte(bytes, i)
    local mine = j.fate == 0 and byte < 16 and byte <= nibble and first + i <= j.cursor
    if mine and nibble == 15 and byte == 15 then
      mine = tonumber(redis.call('HGET', key('at', j.id), first + i - 1) or 15) <= attempt
    end
    if mine then taken = taken + 1 end
    mask[i] = mine and '1' or '0'
    out[i] = string.char(mine and 16 + nibble or byte)
    if mine and attempt >= 15 then redis.call('HSET', key('at', j.id), first + i - 1, attempt) end
  end
  if taken > 0 then
    redis.call('SETRANGE', key('st', j.id), first, table.concat(out))
    j.c1 = j.c1 + taken
    local lane = parse_lane(j.lane)
    book_batch(uid, {slot = slot, job = j.id, first = first, count = count, attempt = attempt, epoch = epoch,
      start = NOW, cpus = lane.cpus, mem = booked_mem(lane, node), gpus = '', left = taken}, node)
    settle(j)
  end
  return table.concat(mask)
end

-- A store that was rolled back must not give out the numbers of slots that are held.
local function pass_slot(slot)
  if tonumber(slot) > tonumber(redis.call('HGET', key('node', uid), 'slotseq') or 0) then
    redis.call('HSET', key('node', uid), 'slotseq', slot)
  end
end

local reply = {'ok'}
for i = 6, #ARGV, 6 do
  local slot, id, first, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local attempt, epoch = string.match(ARGV[i + 5], '(%d+):(%d+)')
  attempt, epoch = tonumber(attempt), tonumber(epoch)
  pass_slot(slot)
  local b, j = load_batch(uid, slot), load(id)
  if not j or j.uid ~= ARGV[i + 2] then
    reply[#reply + 1] = string.rep('0', count)
  elseif b and b.job == id and b.first == first and b.attempt == attempt and b.epoch == epoch then
    local mask, bytes = {}, states_of(id, first, count)
    for k = 1, count do
      local state = math.floor(string.byte(bytes, k) / 16)
      mask[k] = (state == R or state == CG) and '1' or '0'
    end
    reply[#reply + 1] = table.concat(mask)
  elseif b then
    reply[#reply + 1] = string.rep('0', count)
  else
    reply[#reply + 1] = take_back(slot, j, first, count, attempt, epoch)
  end
end
if ARGV[4] == '1' then
  local slots = redis.call('HKEYS', key('slots', uid))
  for i = 1, #slots do
    if not has(ARGV[5], slots[i]) then drop_batch(uid, load_batch(uid, slots[i]), RETURNED, node) end
  end
  redis.call('SREM', P .. 'rec', uid)
end
save_free(node)
return reply
