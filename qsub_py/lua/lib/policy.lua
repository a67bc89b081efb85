-- Limits of the cluster: `limits` "license:matlab" -> how many there are, "owner:ann" -> the most cpus
-- that ann's batches hold at once, "owner:*" -> that of everybody without a cap of their own.
-- A batch holds its licences from its claim until it leaves its node, in whatever way; `lic_used` is
-- the sum. A lane that is passed over stands in lic_wait:<name> or own_wait:<owner> until it is gone;
-- whoever frees wakes idle nodes for these lanes.

-- own:<owner>: cpus that batches hold now, and what was used: cpu seconds, of which half are forgotten
-- in a week. Read once a script, written once. A claim is charged a minute at first (or the time
-- limit, if that is shorter), put right when the batch leaves.
local owners, freed = {}, {}

local function load_owner(name)
  local o = owners[name]
  if o then return o end
  local row = redis.call('HMGET', key('own', name), 'cpus', 'used', 'at', 'waits')
  o = {cpus = tonumber(row[1] or 0), used = tonumber(row[2] or 0), waits = row[4] == '1'}
  local passed = NOW - tonumber(row[3] or NOW)
  if passed > 0 then o.used = o.used * 2 ^ (-passed / 604800000) end
  owners[name] = o
  return o
end

-- What only those pay for who use it, built at the first use: each function costs every script.
local built
local function policy()
  if built then return built end
  local t = {}
  built = t

  local function limit_of(name)
    return tonumber(redis.call('HGET', P .. 'limits', name) or '') or 0
  end

  local function cap_of(name)
    if not meta[6] then return 1e9 end
    local row = redis.call('HMGET', P .. 'limits', 'owner:' .. name, 'owner:*')
    return tonumber(row[1] or row[2] or '') or 1e9
  end

  -- Wake idle nodes for lanes in the set `waiting`, while `free` units last; cost(need) of them a task.
  local function wake_lanes(waiting, free, cost)
    local lanes = redis.call('SRANDMEMBER', waiting, 64)
    for i = 1, #lanes do
      if free <= 0 then return end
      if not redis.call('ZSCORE', P .. 'lanes', lanes[i]) then redis.call('SREM', waiting, lanes[i])
      else
        local one = math.max(1, cost(parse_lane(lanes[i])))
        local n = math.floor(free / one)
        if n > 0 then free = free - (n - math.max(0, offer_lane(ANY_JOB, lanes[i], n))) * one end
      end
    end
  end

  -- Whether the owner's cap leaves room for a task of a lane; if not, remember that it waits.
  function t.is_below_cap(lane, need)
    local o = load_owner(need.owner)
    o.cap = o.cap or cap_of(need.owner)
    if o.cpus + need.cpus <= o.cap then return true end
    redis.call('SADD', key('own_wait', need.owner), lane)
    if not o.waits then o.waits, o.is_changed = true, true end
    return false
  end

  function t.wake_for_owner(name)
    wake_lanes(key('own_wait', name), cap_of(name) - load_owner(name).cpus, function(need) return need.cpus end)
  end

  local function licenses(text) return string.gmatch(text, '([^,:]+):(%d+)') end

  -- Whether there are enough of the licences of a lane now; if not, remember that it waits.
  function t.has_licenses(lane, need)
    for name, count in licenses(need.licenses) do
      if tonumber(redis.call('HGET', P .. 'lic_used', name) or 0) + count > limit_of('license:' .. name) then
        redis.call('SADD', key('lic_wait', name), lane)
        return false
      end
    end
    return true
  end

  -- Book what a batch holds (`sign` 1), or free it (-1).
  function t.hold_licenses(b, sign)
    for name, count in licenses(b.licenses) do
      local used = redis.call('HINCRBY', P .. 'lic_used', name, sign * count)
      if used <= 0 then redis.call('HDEL', P .. 'lic_used', name) end
      if sign < 0 then freed[name] = true end
    end
  end

  function t.wake_for_license(name)
    local free = limit_of('license:' .. name) - tonumber(redis.call('HGET', P .. 'lic_used', name) or 0)
    wake_lanes(key('lic_wait', name), free, function(need)
      for word, count in licenses(need.licenses) do
        if word == name then return tonumber(count) end
      end
      return 1
    end)
  end

  -- Rates, "name:tasks/ms": rate:<rate> is the ms at which the next task may start; tasks start evenly.
  -- What was late may be made up for, up to a second's worth. A lane that must wait is in `rate_due`
  -- until then; promote wakes a node for it.
  local function rate_state(rate)
    local tasks, ms = string.match(rate, ':(%d+)/(%d+)$')
    local gap = ms / tasks
    local at = tonumber(redis.call('GET', key('rate', rate)) or NOW)
    return math.max(at, NOW - math.max(0, 1000 - gap)), gap, tonumber(ms)
  end

  -- How many tasks of a lane may start now; if none, remember when. A fast lane is looked at each
  -- tenth of a second: it may take several then.
  function t.rate_room(lane, rate)
    local at, gap = rate_state(rate)
    if at <= NOW then return math.floor((NOW - at) / gap + 1e-6) + 1 end
    local due = math.ceil(gap < 100 and math.max(at, NOW + 100) or at)
    redis.call('ZADD', P .. 'rate_due', due, lane)
    if not t.rate_soon or due < t.rate_soon then t.rate_soon = due end
    return 0
  end

  -- Count tasks that start; a negative number never began.
  function t.spend_rate(rate, tasks)
    local at, gap, ms = rate_state(rate)
    if tasks < 0 and redis.call('EXISTS', key('rate', rate)) == 0 then return end
    at = at + tasks * gap
    redis.call('SET', key('rate', rate), string.format('%.3f', at), 'PX', math.ceil(math.max(0, at - NOW)) + ms + 60000)
  end

  -- Lanes whose time has come: an idle node looks. Returns the next time, nil when none waits.
  function t.wake_rates()
    local due = redis.call('ZRANGEBYSCORE', P .. 'rate_due', '-inf', NOW, 'LIMIT', 0, 64)
    for i = 1, #due do
      redis.call('ZREM', P .. 'rate_due', due[i])
      if redis.call('ZSCORE', P .. 'lanes', due[i]) then
        offer_lane(ANY_JOB, due[i], t.rate_room(due[i], parse_lane(due[i]).rate))
      end
    end
    return tonumber(redis.call('ZRANGE', P .. 'rate_due', 0, 0, 'WITHSCORES')[2])
  end

  return t
end

-- How many tasks of this lane the cluster's limits let start now.
local function may_hold(lane, need)
  if meta[6] and not policy().is_below_cap(lane, need) then return 0 end
  if need.licenses ~= '' and not policy().has_licenses(lane, need) then return 0 end
  return need.rate == '' and 1e9 or policy().rate_room(lane, need.rate)
end

-- Charge the owner of a batch for cpus that it holds from now on (or fewer), and for seconds of them.
local function charge(b, cpus, seconds)
  if b.owner == '' then return end
  local o = load_owner(b.owner)
  o.cpus, o.used = math.max(0, o.cpus + cpus), math.max(0, o.used + b.cpus * seconds)
  o.is_changed, o.is_freed = true, o.is_freed or cpus < 0
end

local function book_terms(b)
  charge(b, b.cpus, b.charge)
  if b.licenses ~= '' then policy().hold_licenses(b, 1) end
end

-- What a version booked that knew no owners is not freed.
local function free_terms(b)
  charge(b, -b.cpus, math.max(0, NOW - tonumber(b.start)) / 1000 - b.charge)
  if b.licenses ~= '' then policy().hold_licenses(b, -1) end
end

-- At the end of a script: write what owners hold, wake whoever waits for what was freed.
local function settle_terms()
  for name, o in pairs(owners) do
    local wakes = o.is_freed and o.waits
    if wakes and redis.call('EXISTS', key('own_wait', name)) == 0 then o.waits, wakes = false, false end
    if o.is_changed then
      redis.call('HSET', key('own', name), 'cpus', o.cpus, 'used', string.format('%.3f', o.used), 'at', NOW,
        'waits', o.waits and 1 or 0)
    end
    o.is_changed, o.is_freed = false, false
    if wakes then policy().wake_for_owner(name) end
  end
  for name in pairs(freed) do policy().wake_for_license(name) end
  freed = {}
end

local function save_free(node)
  redis.call('HSET', key('node', node.uid), 'cpus_free', node.cpus_free, 'mem_free', node.mem_free,
    'gpus_free', table.concat(node.gpus_free, ','))
  settle_terms()
end
