-- Change a job: its signed spec, where and when it stands in the queue, its limit of tasks.
-- KEYS  meta
-- ARGV  job, signature that its spec has now, is only for a job of which nothing has begun (0 or 1),
--       new spec or '', its signature, lane or '', priority or '', limit or '', begin (ms; 0 none)
--       or '', order for those that hold it or '', deadline (ms; 0 none) or '', then pairs field, value
--       for display
-- Returns {'ok', version, node, seq, ...} whom it told; {'gone'}; {'ended'}; {'lost'}: another
--         changed the spec; {'begun'}; {'fired'}: the spec is its schedule's.
-- Replay: the spec has the new signature already; the rest is as it is, holders are told once more.
--- @include head job node batch todo

local j = load(ARGV[1])
if not j then return {'gone'} end
if j.ended ~= 0 or j.fate ~= 0 then return {'ended'} end
local spec, signature = ARGV[4], ARGV[5]
local now_has = redis.call('HMGET', key('j', j.id), 'sig', 'suid', 'prio')
local is_done = spec ~= '' and now_has[1] == signature
if now_has[1] ~= ARGV[2] and not is_done then return {'lost'} end
if spec ~= '' and now_has[2] then return {'fired'} end
local has_begun = j.c1 + j.c2 + ended_tasks(j) > 0 or j.classes ~= ''
if ARGV[3] == '1' and has_begun then return {'begun'} end
tick()

-- It leaves its lanes with the rank that it had, and stands anew in `settle`.
local function leave_lanes()
  stand(j.lane, j.id, 0, false)
  for class in string.gmatch(j.classes, '%d+') do
    stand(class_lane(j, tonumber(class)), j.id .. ':' .. class, 0, false)
  end
end

if ARGV[6] ~= '' or ARGV[7] ~= '' then leave_lanes() end
if ARGV[6] ~= '' then
  j.lane = ARGV[6]
  redis.call('HSET', key('j', j.id), 'lane', j.lane)
end
if ARGV[7] ~= '' then
  j.rank = j.id - tonumber(ARGV[7]) * 1099511627776
  redis.call('HSET', key('j', j.id), 'prio', ARGV[7], 'rank', string.format('%.0f', j.rank))
end
if ARGV[8] ~= '' then
  j.limit = tonumber(ARGV[8])
  redis.call('HSET', key('j', j.id), 'limit', ARGV[8])
end
if ARGV[9] ~= '' then
  j.begin = tonumber(ARGV[9])
  if j.begin <= NOW then j.begin = 0 end
  set_due(j)
end
if ARGV[11] ~= '' then
  j.expire = tonumber(ARGV[11])
  set_due(j)
end
if spec ~= '' and not is_done then
  j.ver = j.ver + 1
  redis.call('HSET', key('j', j.id), 'spec', spec, 'sig', signature, 'ver', j.ver)
  -- Where it could not start it may now.
  if ARGV[3] == '1' then
    redis.call('DEL', key('unfit', j.id))
    j.unfit = 0
  end
end
for i = 12, #ARGV, 2 do redis.call('HSET', key('j', j.id), ARGV[i], ARGV[i + 1]) end
settle(j)
offer(j)
local reply = {'ok', j.ver}
local told = ARGV[10] ~= '' and order_holders(j.id, ARGV[10]) or {}
for i = 1, #told do reply[#reply + 1] = told[i] end
return reply
