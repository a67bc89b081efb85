-- Limits of the cluster: `limits` "license:matlab" -> how many there are. A batch holds its licences
-- from its claim until it leaves its node in whatever way; `lic_used` is the sum of what batches hold.
-- A lane that is passed over stands in lic_wait:<name>, until it is gone; whoever frees or raises
-- wakes idle nodes for these lanes.
local freed = {}

local function limit_of(name)
  return tonumber(redis.call('HGET', P .. 'limits', name) or '')
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

local function licenses(text) return string.gmatch(text, '([^,:]+):(%d+)') end

-- Whether there are enough of the licences of a lane now; if not, remember that it waits.
local function has_licenses(lane, need)
  for name, count in licenses(need.licenses) do
    local used = tonumber(redis.call('HGET', P .. 'lic_used', name) or 0)
    if used + count > (limit_of('license:' .. name) or 0) then
      redis.call('SADD', key('lic_wait', name), lane)
      return false
    end
  end
  return true
end

-- Book what a batch holds of the cluster (`sign` 1), or free it (-1).
local function hold_licenses(b, sign)
  for name, count in licenses(b.licenses) do
    local used = redis.call('HINCRBY', P .. 'lic_used', name, sign * count)
    if used <= 0 then redis.call('HDEL', P .. 'lic_used', name) end
    if sign < 0 then freed[name] = true end
  end
end

local function wake_for_license(name)
  local free = (limit_of('license:' .. name) or 0) - tonumber(redis.call('HGET', P .. 'lic_used', name) or 0)
  wake_lanes(key('lic_wait', name), free, function(need)
    return tonumber(string.match(',' .. need.licenses, ',' .. name:gsub('%W', '%%%0') .. ':(%d+)') or 1)
  end)
end

local function book_terms(b) if b.licenses ~= '' then hold_licenses(b, 1) end end
local function free_terms(b) if b.licenses ~= '' then hold_licenses(b, -1) end end

-- Whether the cluster's limits let a task of this lane start now.
local function may_hold(lane, need)
  return need.licenses == '' or has_licenses(lane, need)
end

-- At the end of a script: wake whoever waits for what it freed.
local function settle_terms()
  for name in pairs(freed) do wake_for_license(name) end
  freed = {}
end

local function save_free(node)
  redis.call('HSET', key('node', node.uid), 'cpus_free', node.cpus_free, 'mem_free', node.mem_free,
    'gpus_free', table.concat(node.gpus_free, ','))
  settle_terms()
end
