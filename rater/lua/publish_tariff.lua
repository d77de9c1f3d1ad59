--[[
Purpose: make tariff versions the active ones, of all tenants at once, and raise the epoch so that
raters take notice; nothing is switched unless every tenant's active version is the expected one.

KEYS:
  1  HASH    active versions by tenant
  2  STRING  epoch
ARGV: for each tenant three
  1  tenant
  2  the version that is expected to be active, 0 for none
  3  the version to make active
Returns: {1, the new epoch}, or {0, tenant, its active version} when another version is active
Errors: none
]]
local call = redis.call
for i = 1, #ARGV, 3 do
  local active = call('HGET', KEYS[1], ARGV[i]) or '0'
  if active ~= ARGV[i + 1] then
    return {0, ARGV[i], active}
  end
end
for i = 1, #ARGV, 3 do
  call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
return {1, call('INCR', KEYS[2])}
