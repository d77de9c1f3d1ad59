-- Shared by what prices seconds: micro-cents for a duration in microseconds at a price in
-- billionths of a cent per second, rounded half up: floor((duration * price + 5e8) / 1e9).
-- The product has up to 106 bits, a Lua number holds 53, so both factors are split into limbs of
-- base 1e6. A column of the product is at most 3 * 999999^2 plus a carry, far below 2^53, so every
-- step is exact. Adding 5e8 is adding 500 to the second limb; dividing by 1e9 drops the lowest
-- limb and then 3 digits. A result beyond 2^53 comes out as some number beyond 2^53.
local function price_of(duration_us, price_nanos)
  local a0, b0 = duration_us % 1e6, price_nanos % 1e6
  local a, b = (duration_us - a0) / 1e6, (price_nanos - b0) / 1e6
  local a1, b1 = a % 1e6, b % 1e6
  local a2, b2 = (a - a1) / 1e6, (b - b1) / 1e6
  local column = a0 * b0
  column = a0 * b1 + a1 * b0 + 500 + math.floor(column / 1e6)
  local limb1 = column % 1e6
  column = a0 * b2 + a1 * b1 + a2 * b0 + (column - limb1) / 1e6
  local limb2 = column % 1e6
  column = a1 * b2 + a2 * b1 + (column - limb2) / 1e6
  local limb3 = column % 1e6
  column = a2 * b2 + (column - limb3) / 1e6
  return column * 1e15 + limb3 * 1e9 + limb2 * 1e3 + math.floor(limb1 / 1e3)
end
