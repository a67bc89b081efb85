-- Nodes: lanes they can serve, what is free, orders, wake-ups.
-- A lane is "cpus|mem|gpus|queue|python|nodelist|owner|exclude|constraint|licenses|rate"; mem 0 is
-- the node's share per cpu; empty parts after the owner are not written at the end. A constraint is
-- "a&b/c" (a and b, or c), licences are "ansys:2,matlab:1", a rate is "name:tasks/ms".
local NODE = {'cpus', 'cpus_free', 'mem', 'mem_free', 'gpus_free', 'queues', 'pythons', 'name', 'state', 'gpus',
  'gpus_busy', 'features'}

local function parse_lane(lane)
  local part = {}
  for word in string.gmatch(lane .. '|', '([^|]*)|') do part[#part + 1] = word end
  return {cpus = tonumber(part[1]), mem = tonumber(part[2]), gpus = tonumber(part[3]), queue = part[4],
    python = part[5], nodelist = part[6], owner = part[7] or '', exclude = part[8] or '',
    constraint = part[9] or '', licenses = part[10] or '', rate = part[11] or ''}
end

local function has(list, word)
  return string.find(',' .. list .. ',', ',' .. word .. ',', 1, true) ~= nil
end

local function load_node(uid)
  local row = redis.call('HMGET', key('node', uid), unpack(NODE))
  if not row[1] then return nil end
  -- Free devices, those that may be given out first: others are used outside of the queue.
  local gpus, shut, busy = {}, {}, row[11] or ''
  for g in string.gmatch(row[5] or '', '%d+') do
    local list = has(busy, g) and shut or gpus
    list[#list + 1] = g
  end
  local open = #gpus
  for i = 1, #shut do gpus[#gpus + 1] = shut[i] end
  return {uid = uid, gpus_open = open, gpus_busy = busy, cpus = tonumber(row[1]), cpus_free = tonumber(row[2]), mem = tonumber(row[3]),
    mem_free = tonumber(row[4]), gpus_free = gpus, queues = row[6], pythons = row[7], name = row[8],
    state = row[9], gpus = tonumber(row[10]), features = row[12] or ''}
end

local function booked_mem(need, node)
  if need.mem > 0 then return need.mem end
  return math.floor(node.mem / node.cpus) * need.cpus
end

-- Whether features ("a,b") satisfy a constraint.
local function meets(constraint, features)
  for group in string.gmatch(constraint, '[^/]+') do
    local all = true
    for word in string.gmatch(group, '[^&]+') do all = all and has(features, word) end
    if all then return true end
  end
  return constraint == ''
end

-- Whether the node is of the kind that the lane asks for, however busy it is.
local function may_serve(need, node)
  return has(node.queues, need.queue) and (need.python == '' or has(node.pythons, need.python))
    and (need.nodelist == '' or has(need.nodelist, node.name))
    and (need.exclude == '' or not has(need.exclude, node.name))
    and (need.constraint == '' or meets(need.constraint, node.features))
    and need.cpus <= node.cpus and need.gpus <= node.gpus and need.mem <= node.mem
end

local function fits(need, node)
  return need.cpus <= node.cpus_free and need.gpus <= node.gpus_open
    and booked_mem(need, node) <= node.mem_free and may_serve(need, node)
end

-- Devices that a batch takes: the first ones that may be given out.
local function take_gpus(node, count)
  local chosen = {}
  for i = 1, count do chosen[i] = table.remove(node.gpus_free, 1) end
  node.gpus_open = node.gpus_open - count
  return table.concat(chosen, ',')
end

-- A device is free again, unless the node has fewer now.
local function give_gpu(node, g)
  if tonumber(g) >= node.gpus then return end
  if has(node.gpus_busy, g) then node.gpus_free[#node.gpus_free + 1] = g return end
  node.gpus_open = node.gpus_open + 1
  table.insert(node.gpus_free, node.gpus_open, g)
end

-- How many tasks of the lane fit into what is free.
local function room(need, node)
  local n = math.floor(node.cpus_free / need.cpus)
  local mem = booked_mem(need, node)
  if mem > 0 then n = math.min(n, math.floor(node.mem_free / mem)) end
  if need.gpus > 0 then n = math.min(n, math.floor(node.gpus_open / need.gpus)) end
  return n
end

-- Idle nodes, loaded once a script; lanes that no node left in `idle` fits.
local idle_node, served_lane = {}, {}

-- Wake as many idle nodes that fit as there are tasks; each leaves `idle` in the same breath.
-- Returns how many tasks are left.
local function offer_lane(j, lane, tasks)
  if tasks <= 0 or served_lane[lane] then return tasks end
  local need = parse_lane(lane)
  if j.limit > 0 then tasks = math.min(tasks, j.limit - j.c1 - j.c2) end
  local idle = redis.call('ZRANGE', P .. 'idle', 0, SLICE - 1)
  for i = 1, #idle do
    if tasks <= 0 then return tasks end
    local node = idle_node[idle[i]] or load_node(idle[i])
    idle_node[idle[i]] = node
    if not node then redis.call('ZREM', P .. 'idle', idle[i])
    elseif node.state == 'up' and fits(need, node)
      and not (j.unfit == 1 and redis.call('HEXISTS', key('unfit', j.id), idle[i]) == 1) then
      redis.call('ZREM', P .. 'idle', idle[i])
      ping(idle[i])
      -- One that saves room may refuse them.
      if not (saving() and saving().node == idle[i]) then tasks = tasks - room(need, node) end
    end
  end
  if tasks > 0 and j.unfit == 0 then served_lane[lane] = true end
  return tasks
end
-- For lanes whose jobs nobody looked at.
local ANY_JOB = {limit = 0, unfit = 0}

-- Wake nodes for the tasks of a job that may start.
local function offer(j)
  if not is_ready(j) then return end
  offer_lane(j, j.lane, plain(j))
  for class in string.gmatch(j.classes, '%d+') do
    offer_lane(j, class_lane(j, tonumber(class)), j.grown)
  end
end

-- An order is state with a number, kept until the node says that it obeyed.
local function order(uid, text)
  local seq = redis.call('HINCRBY', key('node', uid), 'oseq', 1)
  redis.call('HSET', key('orders', uid), seq, text)
  redis.call('LREM', key('inbox', uid), 0, 2)
  redis.call('LPUSH', key('inbox', uid), 2)
  return seq
end

local function orders(uid)
  return redis.call('HGETALL', key('orders', uid))
end

local function acknowledge(uid, acked)
  for seq in string.gmatch(acked, '%d+') do redis.call('HDEL', key('orders', uid), seq) end
end

-- Why this request of an agent cannot be served, or nil: a new server (say hello), a lapsed
-- lease or a newer connection of the same node (say hello).
local function refusal(uid, inc, runid)
  if meta[4] ~= runid then return 'RUNID' end
  if redis.call('HGET', key('node', uid), 'inc') ~= inc then return 'FENCED' end
  if not redis.call('ZSCORE', P .. 'nodes', uid) then return 'FENCED' end
  return nil
end
--- @include policy
