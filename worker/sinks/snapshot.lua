-- Replace the snapshot of a live camera, unless the camera is another worker's.
--
-- KEYS  producer hash, snapshot (both of one camera: one cluster slot)
-- ARGV  owner ('': not checked), epoch that the picture is of, milliseconds until it expires, JPEG
-- Returns 1, or 0 if the camera belongs to another owner (own.lua) or has a later epoch.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if ARGV[1] ~= '' and (held[1] or '') ~= '' and held[1] ~= ARGV[1] then
  return 0
end
if (tonumber(held[2] or '') or 0) > tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[3])
return 1
