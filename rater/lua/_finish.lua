-- Shared by the mutations, last: the next request; behind them all the account that is still to be written.
  until true end
end

local whole, problem = pcall(each)
save()
if not whole then
  error(problem, 0)
end
return replies
