-- Remove the consumers of a group that hold nothing and have been idle for long, atomically: one
-- that is handed an entry meanwhile stays.
--
-- KEYS  stream
-- ARGV  group, name of the consumer that asks, milliseconds
-- Returns the number of consumers removed, or the error that the group cannot be read with.
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then
  return consumers
end
local removed = 0
for _, consumer in ipairs(consumers) do
  local fields = {}
  for i = 1, #consumer, 2 do
    fields[consumer[i]] = consumer[i + 1]
  end
  if fields.name ~= ARGV[2] and fields.pending == 0 and fields.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
    removed = removed + 1
  end
end
return removed
