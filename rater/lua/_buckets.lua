-- Shared by the mutations that need more than the balances: the plan and the minute buckets, read once
-- for as long as the account stays the same.
    if not buckets then
      local list, from = {}, 73 + plan_size
      for i = 1, count do
        if from + 27 > #value then
          break
        end
        local seconds, priority, price, size = unpack_at('<i8i8i8I4', value, from)
        list[i] = {
          seconds = seconds, priority = priority, price = price, terms = sub(value, from + 8, from + 27 + size),
          id = sub(value, from + 28, from + 27 + size),
        }
        from = from + 28 + size
      end
      if #list ~= count or from ~= #value + 1 then
        save()
        account = nil
        replies[place] = {err = 'ERR the account holds something else'}
        break
      end
      buckets, plan = list, sub(value, 73, 72 + plan_size)
    end
