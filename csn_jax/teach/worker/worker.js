"use strict";
// Beside the page, so that it stays quick: fits to the answers and says what to ask next.

if (typeof onmessage !== "undefined" && typeof document === "undefined") {
  let teacher = null;
  self.onmessage = ({ data }) => {
    if (data.points) teacher = new Teacher(data);
    if (data.learn) postMessage({ turn: data.turn, learned: teacher.learn(data.learn) });
    if (data.ahead) postMessage({ turn: data.turn, next: teacher.next(data.ahead) });
  };
}
