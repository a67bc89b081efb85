-- Accounting: what the tasks of a job have used (`acct` of the job), and what an owner's tasks used
-- on a day (acct:<days since 1970, UTC>, owner -> numbers). Days outlive the jobs.
-- A report tells its usage as eight doubles (tasks, wall s, cpu s, longest s, most bytes; of the
-- completed ones: tasks, longest s, most bytes), then three floats (wall s, cpu s, bytes) for each
-- of its ends, in the order of positions.
local KEPT_DAYS = 400
local HEAD_BYTES = 64

local function add_usage(sum, wall, cpu, bytes, is_good)
  sum[1], sum[2], sum[3] = sum[1] + 1, sum[2] + wall, sum[3] + cpu
  sum[4], sum[5] = math.max(sum[4], wall), math.max(sum[5], bytes)
  if is_good then
    sum[6], sum[7], sum[8] = sum[6] + 1, math.max(sum[7], wall), math.max(sum[8], bytes)
  end
end

-- The sums of the ends that were accepted: `ok` has their states, `codes` what was reported.
local function accepted_usage(usage, ok, codes, is_all)
  if is_all then return {struct.unpack('>dddddddd', usage)} end
  local sum, at = {0, 0, 0, 0, 0, 0, 0, 0}, HEAD_BYTES + 1
  for i = 1, #codes do
    local said, state = string.byte(codes, i) % 16, string.byte(ok, i) or 0
    if said ~= 0 and said ~= RETURNED and at + 11 <= #usage then
      local wall, cpu, bytes = struct.unpack('>fff', usage, at)
      if state > 0 then add_usage(sum, wall, cpu, bytes, state == CD) end
      at = at + 12
    end
  end
  return sum
end

local function numbers(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do found[#found + 1] = tonumber(word) end
  return found
end

-- acct: tasks, wall ms, cpu ms, booked ms (wall times cpus), longest ms, most bytes, booked bytes,
-- completed tasks, their longest ms, their most bytes.
local function add_to_job(j, sum, b)
  local old, ms = numbers(j.acct), math.floor(sum[2] * 1000 + 0.5)
  local function n(i) return old[i] or 0 end
  j.acct = string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f',
    n(1) + sum[1], n(2) + ms, n(3) + sum[3] * 1000, n(4) + ms * b.cpus,
    math.max(n(5), sum[4] * 1000), math.max(n(6), sum[5]), math.max(n(7), b.mem),
    n(8) + sum[6], math.max(n(9), sum[7] * 1000), math.max(n(10), sum[8]))
end

-- Owner -> tasks, those that did not complete, wall ms, cpu ms, booked ms: of this script.
local today = {}

local function account(j, b, usage, ok, codes, ended, accepted)
  if #usage < HEAD_BYTES then return end
  local told = struct.unpack('>d', usage)
  local sum = accepted_usage(usage, ok, codes, told == ended and ended == accepted)
  if sum[1] == 0 then return end
  add_to_job(j, sum, b)
  local owner = string.match(j.lane, '^' .. string.rep('[^|]*|', 6) .. '([^|]*)') or ''
  local day = today[owner] or {0, 0, 0, 0, 0}
  local ms = math.floor(sum[2] * 1000 + 0.5)
  day[1], day[2], day[3] = day[1] + sum[1], day[2] + sum[1] - sum[6], day[3] + ms
  day[4], day[5] = day[4] + sum[3] * 1000, day[5] + ms * b.cpus
  today[owner] = day
end

local function save_days()
  local name = key('acct', string.format('%.0f', math.floor(NOW / 86400000)))
  for owner, day in pairs(today) do
    local old = redis.call('HGET', name, owner)
    local known, text = numbers(old or ''), {}
    for i = 1, 5 do text[i] = string.format('%.0f', (known[i] or 0) + day[i]) end
    redis.call('HSET', name, owner, table.concat(text, ' '))
    if not old then redis.call('EXPIRE', name, KEPT_DAYS * 86400) end
  end
end
