-- Append the events of one camera that its stream does not have yet, and move the checkpoint: both
-- or neither, since Redis runs a script to its end before anything else.
--
-- KEYS  stream, producer hash, status hash (all of one camera: one cluster slot)
-- ARGV  epoch, claim ('' for live; for a replay what its producer hash must hold),
--       maxlen (0: do not trim), then per event: seq, id, type, JSON, state, reason
--       (state and reason are '' unless the event tells the camera's state)
-- Returns how many events were appended; -1 if another producer owns the stream; -2 if the stream of
-- a replay lacks events that it had confirmed (Redis came back with older data), -3 if it is gone.
local stream, producer, status = KEYS[1], KEYS[2], KEYS[3]
local epoch, claim, maxlen = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local held = redis.call('HMGET', producer, 'epoch', 'seq', 'claim')
local held_epoch, last_seq = tonumber(held[1] or -1), tonumber(held[2] or -1)
if claim ~= '' and not held[1] then
  return -3
end
if epoch < held_epoch or (held[3] or '') ~= claim then
  return -1
end
if epoch > held_epoch then
  last_seq = -1
end
if claim ~= '' and ARGV[4] and tonumber(ARGV[4]) > last_seq + 1 then
  return -2
end

local appended = 0
for i = 4, #ARGV, 6 do
  local seq = tonumber(ARGV[i])
  if seq > last_seq then
    -- Before the entry: a key of a wrong type must fail the script while nothing is written.
    if ARGV[i + 4] ~= '' then
      if claim == '' then
        redis.call('HSET', status, 'state', ARGV[i + 4], 'reason', ARGV[i + 5],
          'epoch', ARGV[1], 'seq', ARGV[i])
      else
        redis.call('HSET', producer, 'state', ARGV[i + 4])
      end
    end
    if maxlen > 0 then
      redis.call('XADD', stream, 'MAXLEN', '~', maxlen, '*',
        'id', ARGV[i + 1], 'type', ARGV[i + 2], 'event', ARGV[i + 3])
    else
      redis.call('XADD', stream, '*',
        'id', ARGV[i + 1], 'type', ARGV[i + 2], 'event', ARGV[i + 3])
    end
    last_seq = seq
    appended = appended + 1
  end
end
redis.call('HSET', producer, 'epoch', ARGV[1], 'seq', string.format('%d', last_seq))
return appended
