"""Drives Chromium: opens pages, reads what a reader sees, presses what a reader presses."""

import shutil
from pathlib import Path

from tests.conftest import wait_until

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
DESKTOP = (1280, 900)
PHONE = (360, 740)
SERIOUS = ("serious", "critical")


def start_browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-extensions", "--no-first-run",
        "--disable-features=BackForwardCache",
        "--force-color-profile=srgb", f"--window-size={DESKTOP[0]},{DESKTOP[1]}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(30)
    return driver


class Page:
    """One tab."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, path="/"):
        """Opens a page and waits until it has the server's state."""
        self.driver.get(self.url + path)
        self.wait_for("document.body.dataset.trusted === 'true'", "the page to be live")
        return self

    def leave(self):
        """Closes the stream of events, forgets what the page stored, and what was emulated."""
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.driver.get("about:blank")
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", features=[])
        self.driver.get_log("browser")

    def command(self, name, **parameters):
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def resize(self, size):
        width, height = size
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def prefer(self, theme):
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def js(self, expression, *arguments):
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait_for(self, expression, what=None, timeout=20.0):
        return wait_until(lambda: self.js(expression), timeout, what or expression)

    def find(self, css):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css):
        """The text of the first match that is shown; "" if there is none."""
        return next(iter(self.texts(css)), "")

    def texts(self, css):
        """The texts of all matches that are shown."""
        return self.js(
            "[...document.querySelectorAll(arguments[0])]"
            ".filter((each) => each.checkVisibility()).map((each) => each.innerText)",
            css,
        )

    def press(self, *names):
        """Presses keys by the names that selenium has for them."""
        from selenium.webdriver import ActionChains, Keys

        keys = [getattr(Keys, name) for name in names]
        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, css, value):
        """Sets a control, and says so as the browser does."""
        self.js(
            "(arguments[0].value = arguments[1],"
            " ['input', 'change'].map((name) => arguments[0].dispatchEvent(new Event(name))))",
            self.find(css), value,
        )  # fmt: skip

    def drag(self, css, right, down):
        """Drags an element by pixels."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=0)
        actions.drag_and_drop_by_offset(self.find(css), right, down).perform()

    def click_at(self, css, *points):
        """Presses the mouse at fractions of an element's box."""
        from selenium.webdriver import ActionChains

        element = self.find(css)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        width, height = element.size["width"], element.size["height"]
        for x, y in points:
            actions = ActionChains(self.driver, duration=0)
            actions.move_to_element_with_offset(
                element, round((x - 0.5) * width), round((y - 0.5) * height)
            )
            actions.click().perform()

    def boxes(self, within="body"):
        """(label, x, y) of the boxes that are shown, in per cent of the picture."""
        return self.js(
            "[...document.querySelectorAll(arguments[0] + ' .boxes > svg')].map((box) =>"
            "[box.dataset.label, parseFloat(box.getAttribute('x')),"
            " parseFloat(box.getAttribute('y'))])",
            within,
        )

    def accessibility_problems(self):
        """What axe-core finds that is serious: rule and elements."""
        if not self.js("'axe' in window"):
            self.driver.execute_script(AXE.read_text())
        violations = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((found) => done(found.violations))"
        )
        return [
            (each["id"], [node["html"][:200] for node in each["nodes"]])
            for each in violations
            if each["impact"] in SERIOUS
        ]

    def errors(self):
        """What the page's scripts, or the browser about them, complained of."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]
        ]
