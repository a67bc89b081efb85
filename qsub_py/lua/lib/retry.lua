-- What becomes of a task that failed and may run again. The node, which knows the signed policy,
-- adds to the state a wish: 1 try again, 2 the task asked for another run, 3 it asked to be held.
-- The store counts, in `rt` (see job.lua), and knows how large the nodes are.
local RETRY, REQUEUE, HOLD = 1, 2, 3
local MOST_REQUEUES = 100
local MOST_STEPS = 15

local function may_wish(state, wish)
  return wish <= HOLD and (state == F or state == TO or state == OOM)
end

-- In steps of a sixteenth of an octave, so that lanes stay few; as store.round_up_mem.
local function round_up(size)
  local _, bits = math.frexp(size)
  local step = math.max(1, 2 ^ (bits - 5))
  return math.ceil(size / step) * step
end

-- The memory of the largest live node that could run the job.
local function largest_node(j)
  local need, most = parse_lane(j.lane), 0
  need.mem = 0
  local live = redis.call('ZRANGE', P .. 'nodes', 0, SLICE - 1)
  for i = 1, #live do
    local node = load_node(live[i])
    if node and may_serve(need, node) then most = math.max(most, node.mem) end
  end
  return most
end

-- A class is 16 * steps of memory + steps of time. Its lane is the job's with more memory.
local function open_class(j, class, mem)
  if string.find(',' .. j.classes .. ',', ',' .. class .. ',', 1, true) then return end
  local lane = string.gsub(j.lane, '^([^|]*)|[^|]*', '%1|' .. string.format('%.0f', mem), 1)
  redis.call('HSET', key('j', j.id), 'lane:' .. class, lane)
  j.classes = j.classes == '' and tostring(class) or j.classes .. ',' .. class
end

-- The class of the next attempt after it ended in `state`; nil when there is no more to give.
local function next_class(j, class, state, mem_factor, time_factor)
  if not (state == OOM and mem_factor > 1 or state == TO and time_factor > 1) then return class end
  local mem = parse_lane(class_lane(j, class)).mem
  if state == OOM then
    j.most = j.most or largest_node(j)
    local most = j.most
    if mem >= most or class >= 16 * MOST_STEPS then
      redis.call('HSET', key('j', j.id), 'why', 'out of memory with all that the largest node has')
      return nil
    end
    local steps = math.floor(class / 16) + 1
    mem = math.min(round_up(parse_lane(j.lane).mem * mem_factor ^ steps), most)
    class = class + 16
  elseif class % 16 < MOST_STEPS then class = class + 1
  else return class end
  open_class(j, class, mem)
  return class
end

-- Three quarters to five quarters of the backoff, doubled with each retry: no two tasks that failed
-- together come back together. (math.random begins alike in every script.)
local function wait_ms(base, most, retries, pos)
  local wait = math.min(base * 2 ^ math.min(retries - 1, 40), most)
  local dice = ((NOW % 65536) * 40503 + pos * 30011 + retries * 7919) % 1009 / 1009
  return math.floor(wait * (0.75 + dice / 2))
end

local function remember(j, pos, retries, requeues, class)
  redis.call('HSET', key('rt', j.id), pos, string.format('%d:%d:%d', retries, requeues, class))
end

-- What a batch writes of its retries, at once: one command for all of them.
local notes, waits = {}, {}

local function note(pos, retries, requeues, class)
  notes[#notes + 1] = string.format('%.0f', pos)
  notes[#notes + 1] = string.format('%d:%d:%d', retries, requeues, class)
end

local function write_retries(j)
  if notes[1] then redis.call('HSET', key('rt', j.id), unpack(notes)) end
  if waits[1] then
    redis.call('ZADD', key('later', j.id), unpack(waits))
    set_due(j)
  end
  notes, waits = {}, {}
end

-- What tasks of a batch have used up, read at once.
local function tries_of(j, first, count)
  local numbers = {}
  for i = 1, count do numbers[i] = string.format('%.0f', first + i - 1) end
  return redis.call('HMGET', key('rt', j.id), unpack(numbers))
end

-- Whether a task that ended in `state` runs again: returns PD and where it waits ({class, ms}), or
-- the state.
local function second_chance(j, pos, class, state, wish, used)
  local retries, requeues = string.match(used or '0:0:0', '(%d+):(%d+)')
  retries, requeues = tonumber(retries), tonumber(requeues)
  if wish == HOLD then
    j.held = 1
    redis.call('HSET', key('j', j.id), 'held_why', string.format('%.0f', pos))
    return PD, {class, 0}
  elseif wish == REQUEUE then
    if requeues >= MOST_REQUEUES then return state, nil end
    note(pos, retries, requeues + 1, class)
    return PD, {class, 0}
  end
  if not j.policy then
    j.policy = redis.call('HMGET', key('j', j.id), 'retries', 'backoff', 'backoff_most',
      'mem_factor', 'time_factor', 'retry_node')
    for i = 1, 6 do j.policy[i] = tonumber(j.policy[i] or 0) end
  end
  local policy = j.policy
  if retries >= policy[1] or (wish == 0 and policy[6] ~= 1) then return state, nil end
  class = next_class(j, class, state, policy[4], policy[5])
  if not class then return state, nil end
  retries = retries + 1
  note(pos, retries, requeues, class)
  return PD, {class, wait_ms(policy[2], policy[3], retries, pos)}
end

-- Into the list of its class, at once or when its time has come.
local function put_back(j, pos, place)
  if place[2] > 0 then
    local at = NOW + place[2]
    waits[#waits + 1] = string.format('%.0f', at)
    waits[#waits + 1] = string.format('%.0f', pos)
    j.later = j.later + 1
    if j.later_at == 0 or at < j.later_at then j.later_at = at end
    return
  end
  push_again(j.id, pos, 1, false, place[1])
  if place[1] > 0 then j.grown = j.grown + 1 end
end
