import io, json, logging, logging.config, logging.handlers, queue, sys, warnings

logging.warning("by the root logger")
logging.basicConfig(format="%(levelname)s %(name)s %(funcName)s:%(lineno)d %(threadName)s %(processName)s %(message)s", level=logging.DEBUG, force=True, stream=sys.stdout)
log = logging.getLogger("app.part")
def work():
    log.debug("with %s and %d", "args", 3)
    try:
        {}["missing"]
    except KeyError:
        log.exception("failed")
work()
logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": False,
    "formatters": {"short": {"format": "{levelname[0]}:{name}:{message}", "style": "{"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "short", "stream": "ext://sys.stdout"},
        "file": {"class": "logging.handlers.RotatingFileHandler", "formatter": "short", "filename": "app.log", "maxBytes": 60, "backupCount": 2},
    },
    "root": {"level": "INFO", "handlers": ["console", "file"]},
})
for number in range(6):
    log.info("line %d", number)
logging.captureWarnings(True)
warnings.warn("to the log")
logging.captureWarnings(False)
import glob
print(sorted(glob.glob("app.log*")), open("app.log").read())
records = queue.Queue()
listener = logging.handlers.QueueListener(records, logging.StreamHandler(sys.stdout))
listener.start()
other = logging.getLogger("queued")
other.propagate = False
other.addHandler(logging.handlers.QueueHandler(records))
other.error("through a queue")
listener.stop()
class Json(logging.Formatter):
    def format(self, record):
        return json.dumps({"level": record.levelname, "message": record.getMessage(), "module": record.module == __name__ or record.module})
text = io.StringIO()
handler = logging.StreamHandler(text)
handler.setFormatter(Json())
one = logging.getLogger("json")
one.propagate = False
one.addHandler(handler)
one.warning("as %s", "json")
print(json.loads(text.getvalue())["message"])
one.handlers[0].stream = None
try:
    logging.handlers.SysLogHandler()
except OSError as error:
    print(type(error).__name__)
