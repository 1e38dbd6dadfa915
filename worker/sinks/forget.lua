-- Delete the keys of one id, unless a live worker owns the camera.
--
-- KEYS  what to delete, the live camera's producer hash first if it is among them
-- ARGV  milliseconds that an owner keeps a camera without being seen ('': do not ask)
-- Returns {'owned', owner, milliseconds since it was seen}, or {'deleted', key and number of its
-- events (-1 for a key that holds none), and so on}.
if redis.replicate_commands then
  redis.replicate_commands()
end

local function is_a(kind, key)
  return redis.call('TYPE', key)['ok'] == kind
end

if ARGV[1] ~= '' and is_a('hash', KEYS[1]) then
  local held = redis.call('HMGET', KEYS[1], 'owner', 'owner_seen')
  local time, seen = redis.call('TIME'), tonumber(held[2] or '')
  local age = seen and tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - seen
  if (held[1] or '') ~= '' and age and age < tonumber(ARGV[1]) then
    return {'owned', held[1], string.format('%.0f', age)}
  end
end

local deleted = {'deleted'}
for _, key in ipairs(KEYS) do
  local events = is_a('stream', key) and redis.call('XLEN', key) or -1
  if redis.call('UNLINK', key) == 1 then
    deleted[#deleted + 1] = key
    deleted[#deleted + 1] = string.format('%.0f', events)
  end
end
return deleted
