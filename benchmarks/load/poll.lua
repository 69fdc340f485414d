-- Each of wrk's connections asks about once a second, as a client that polls does.
function delay()
  return math.random(500, 1500)
end
