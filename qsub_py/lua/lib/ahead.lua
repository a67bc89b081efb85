-- Cancel positions past the cursor: one interval more, in order and merged. Returns how many waited
-- there; nil when there are too many intervals.
local function cancel_ahead(j, from, to)
  local list, merged = intervals(j.id), {}
  list[#list + 1] = {from, to}
  table.sort(list, function(x, y) return x[1] < y[1] end)
  for i = 1, #list do
    local top = merged[#merged]
    if list[i][2] < j.cursor then -- written down long ago
    elseif top and list[i][1] <= top[2] + 1 then top[2] = math.max(top[2], list[i][2])
    else merged[#merged + 1] = {list[i][1], list[i][2]} end
  end
  if #merged > SLICE then return nil end
  local before, after, text = 0, 0, {}
  list = intervals(j.id)
  for i = 1, #list do before = before + math.max(0, list[i][2] - math.max(list[i][1], j.cursor) + 1) end
  for i = 1, #merged do
    after = after + math.max(0, merged[i][2] - math.max(merged[i][1], j.cursor) + 1)
    text[i] = string.format('%.0f-%.0f', merged[i][1], merged[i][2])
  end
  redis.call('HSET', key('j', j.id), 'cx', table.concat(text, ','))
  j.c5 = j.c5 + after - before
  if j.gate == 2 then j.wait = j.wait - after + before end
  if after > before then tell(j, from, to) end
  return after - before
end
