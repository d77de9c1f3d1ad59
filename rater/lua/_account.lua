-- Shared by the mutations that need more than the balances: the whole account. `fields` is the
-- hash, `buckets` the texts of bucket:0, bucket:1, … as a list.
local flat = call('HGETALL', KEYS[1])
local fields, buckets = {}, {}
for i = 1, #flat, 2 do
  fields[flat[i]] = flat[i + 1]
end
if not fields.seq then
  return 'UnknownSubject'
end
local seq = string.format('%.0f', fields.seq + 1)
local credit, sms, traffic = fields.credit, fields.sms, fields.traffic
local volume_discount, received = fields.volume_discount, fields.received
while fields['bucket:' .. #buckets] do
  buckets[#buckets + 1] = fields['bucket:' .. #buckets]
end
