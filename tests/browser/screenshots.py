"""Makes the pictures of the dashboard in docs/images: `python -m tests.browser.screenshots`.

Real detections: a worker watches the sample clip, played like a camera, and one camera that is not
there; a replay of the clip; the dashboard; and Debian's Chromium, headless. Takes some minutes.
Each picture is reduced to a palette of its own, below 150 kB.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import time

from PIL import Image

from tests.browser.page import Page, start_browser
from tests.clips import cut
from tests.conftest import REDIS_BINARIES, ROOT, WALKWAY, RedisServer, free_port, wait_until

IMAGES = ROOT / "docs" / "images"
LARGEST_BYTES = 150_000
COLOURS = range(256, 64, -16)
WIDTH, HEIGHT = 1280, 1040
CAMERA_FPS = 4
"""Half the clip's speed, and what two cores analyse of three cameras without dropping frames."""
WATCHED_SECONDS = 75.0
"""How long the cameras are watched first, so that charts have something in them."""


@contextlib.contextmanager
def command(*arguments):
    """A `ssd-worker` command in the background."""
    process = subprocess.Popen([sys.executable, "-m", "worker.cli", *map(str, arguments)], cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def save(page, name):
    """What is in the window as a picture with a palette."""
    picture = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    for colours in COLOURS:
        file = io.BytesIO()
        reduced = picture.quantize(colours, kmeans=4, dither=Image.Dither.NONE)
        reduced.save(file, "PNG", optimize=True)
        if file.tell() < LARGEST_BYTES:
            break
    (IMAGES / name).write_bytes(file.getvalue())
    print(f"docs/images/{name}: {file.tell() // 1000} kB, {colours} colours")


def take(page):
    """Each page once, in the theme and at the moment that shows what it is for."""
    boxes = "document.querySelectorAll('.frame:not(.old):has(img:not([hidden])) .box').length"
    page.resize((WIDTH, HEIGHT))
    page.prefer("light")
    page.open("/")
    page.wait_for(f"{boxes} > 6 && document.querySelector('.coverage svg')", timeout=60)
    time.sleep(15)  # the feed fills
    page.wait_for(f"{boxes} > 12", timeout=60)
    save(page, "dashboard.png")
    page.prefer("dark")
    time.sleep(1)  # colours change smoothly
    page.wait_for(f"{boxes} > 12", timeout=60)
    save(page, "dashboard-dark.png")
    page.prefer("light")
    page.open("/camera/gate")
    page.wait_for(f"document.querySelector('.chart') && {boxes} > 4", timeout=60)
    page.find("#area-buttons button").click()
    page.click_at(".surface", (0.62, 0.02), (0.98, 0.02), (0.98, 0.2), (0.7, 0.17), (0.62, 0.02))
    page.js("window.scrollTo(0, 0)")
    page.wait_for(f"{boxes} > 4", timeout=60)
    save(page, "dashboard-camera.png")
    page.open("/replay/walkway#at=8.5")
    page.wait_for("document.querySelectorAll('#found tr').length > 3")
    page.find("#file").send_keys(str(WALKWAY))
    page.wait_for("document.querySelector('video:not([hidden])')?.readyState >= 2")
    save(page, "dashboard-replay.png")
    page.resize((390, 844))
    page.open("/")
    page.wait_for(f"{boxes} > 4 && document.querySelector('.coverage svg')", timeout=60)
    save(page, "dashboard-phone.png")


def main():
    """Start everything, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = RedisServer(REDIS_BINARIES["valkey"], folder)
        stack.callback(server.stop)
        common = ("--redis-url", server.url, "--state-dir", folder)
        subprocess.run(
            [sys.executable, "-m", "worker.cli", "replay", WALKWAY, *common], cwd=ROOT, check=True
        )
        clip = cut(WALKWAY, f"{folder}/walkway.mp4", frames=150, rate=CAMERA_FPS)
        cameras = [f"{name}={clip}" for name in ("gate", "lawn", "parking")]
        cameras.append("yard=rtsp://127.0.0.1:9/h264")
        watching = ("--loop", "--snapshots", "--spool-dir", f"{folder}/spool")
        stack.enter_context(command("run", *cameras, *watching, *common))
        port = free_port()
        stack.enter_context(command("dashboard", "--listen", port, *common))
        wait_until(lambda: server.client.scard("ssd:cameras") == 4, 60, "the cameras")
        time.sleep(WATCHED_SECONDS)
        driver = start_browser()
        stack.callback(driver.quit)
        take(Page(driver, f"http://127.0.0.1:{port}"))


if __name__ == "__main__":
    main()
