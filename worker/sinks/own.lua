-- See who owns a live camera, and become its owner if nobody else is, or nobody else than expected.
--
-- KEYS  producer hash
-- ARGV  owner ('': give the camera back), then the owner expected ('': none) and when that one was
--       last seen ('*': at any time)
-- The camera is taken if it belongs to `owner` already, or if it is as expected. Its owner was seen
-- at the server's time in milliseconds, so that clocks of workers do not matter.
-- Returns {taken ('1' or '0'), owner until now (nil: none known, '': given back), when it was seen,
-- milliseconds since then, epoch}.
if redis.replicate_commands then
  redis.replicate_commands()  -- for Redis before 7 with lua-replicate-commands off: TIME varies
end

local owner, expected, expected_seen = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HMGET', KEYS[1], 'owner', 'owner_seen', 'epoch')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local seen = held[2] or ''
local as_expected = (held[1] or '') == expected and (expected_seen == '*' or seen == expected_seen)

local taken = (held[1] or '') == owner or as_expected
if taken and (owner ~= '' or held[1]) then  -- what nobody has needs no giving back
  local noted = owner ~= '' and string.format('%.0f', now) or ''
  redis.call('HSET', KEYS[1], 'owner', owner, 'owner_seen', noted)
end
return {taken and '1' or '0', held[1], seen,
  string.format('%.0f', now - (tonumber(seen) or now)), held[3] or '0'}
