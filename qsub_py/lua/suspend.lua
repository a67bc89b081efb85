-- Suspend or resume a job, or those of its tasks that run. What is suspended keeps its cpus and
-- memory; holders are told to look what of the job is suspended now.
-- KEYS  meta
-- ARGV  job, first and last position (-1, -1: the whole job), suspend or resume
-- Returns {'ok', tasks that run of those, node, seq, ...} whom it told; {'gone'}; {'ended'};
--         {'whole'}: the job is suspended as a whole, no task alone can go on;
--         {'many'}: too many separate ranges or batches.
-- Replay: what is suspended is; holders look once more.
--- @include head job node batch todo suspend

local j = load(ARGV[1])
if not j then return {'gone'} end
if j.ended ~= 0 then return {'ended'} end
local a, b, stops = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == 'suspend'
local MOST_LOOKED_AT = 1024

-- The running tasks of positions a..b as ranges in order; nil when that is too much to look at.
local function running_ranges()
  local found, holders, looked = {}, redis.call('HKEYS', key('on', j.id)), 0
  for i = 1, #holders do
    local slots = redis.call('HKEYS', key('slots', holders[i]))
    looked = looked + #slots + 1
    if looked > MOST_LOOKED_AT then return nil end
    for k = 1, #slots do
      local batch = load_batch(holders[i], slots[k])
      if batch.job == j.id then
        local bytes = states_of(j.id, batch.first, batch.count)
        for n = 1, batch.count do
          local byte, at = string.byte(bytes, n), batch.first + n - 1
          if at >= a and at <= b and byte < CG * 16 and owns(batch, n, byte) then
            found[#found + 1] = {at, at}
          end
        end
      end
    end
  end
  return found
end

local function merged(list)
  table.sort(list, function(x, y) return x[1] < y[1] end)
  local out = {}
  for i = 1, #list do
    local top = out[#out]
    if top and list[i][1] <= top[2] + 1 then top[2] = math.max(top[2], list[i][2])
    else out[#out + 1] = list[i] end
  end
  return out
end

local count = j.c1
if a >= 0 then
  if j.susp == 1 and not stops then return {'whole'} end
  local running = running_ranges()
  if not running then return {'many'} end
  count = #running
  local list = read_ranges(j.sx)
  if stops then
    for i = 1, #running do list[#list + 1] = running[i] end
    list = merged(list)
  else list = without(list, a, b) end
  if #list > SLICE then return {'many'} end
  tick()
  j.sx = j.susp == 1 and '' or write_ranges(list)
else
  tick()
  j.susp, j.sx = stops and 1 or 0, ''
end
settle(j)
offer(j)
local reply = {'ok', count}
local told = order_holders(j.id, cjson.encode({op = 'suspend', job = tonumber(j.id), uid = j.uid}))
for i = 1, #told do reply[#reply + 1] = told[i] end
return reply
