import calendar, datetime, locale, time, zoneinfo, os

print(locale.getlocale(), locale.getpreferredencoding().lower(), locale.setlocale(locale.LC_ALL))
for name in ("", "C", "C.UTF-8", "de_DE.UTF-8", "no_SUCH"):
    try:
        print(name, locale.setlocale(locale.LC_ALL, name))
    except locale.Error as error:
        print(name, error)
print(locale.format_string("%.2f", 1234567.891, grouping=True), f"{1234567.891:n}", f"{1234567:,}")
berlin = zoneinfo.ZoneInfo("Europe/Berlin")
moment = datetime.datetime(2024, 3, 31, 1, 30, tzinfo=berlin)
print(moment.isoformat(), (moment + datetime.timedelta(hours=1)).astimezone(datetime.timezone.utc), moment.tzname())
print(len(zoneinfo.available_timezones()) > 400, zoneinfo.TZPATH)
try:
    zoneinfo.ZoneInfo("Mars/Olympus")
except zoneinfo.ZoneInfoNotFoundError as error:
    print(error)
print(time.tzname, time.timezone, datetime.datetime(2024, 1, 1).astimezone().tzname(), time.localtime(0).tm_hour)
os.environ["TZ"] = "America/New_York"
time.tzset()
print(time.tzname, datetime.datetime.fromtimestamp(0))
print(time.strftime("%A %d %B %Y %p", time.gmtime(0)), calendar.month(2024, 2).splitlines()[0].strip())
print(datetime.datetime.strptime("3 Mar 2024", "%d %b %Y").date(), "é".upper(), sorted("bäÄa", key=locale.strxfrm))
print(time.get_clock_info("monotonic").implementation, time.monotonic() > 0, time.process_time() >= 0, time.clock_gettime(time.CLOCK_REALTIME) > 1e9)
