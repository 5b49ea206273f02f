// What the page says, in English and Chinese. The server's reasons are for logs; people get these.

const ENGLISH = {
  console: "Console",
  serial: "Serial console",
  keyboard: "Keyboard",
  clipboard: "Clipboard",
  reset: "Ctrl+Alt+Del",
  size: "Actual size",
  full: "Full screen",
  tools: "Console",
  screen: "Screen of the VM; Ctrl+Alt+Shift leaves it",
  close: "Close",
  clipLabel: "Text to and from the VM",
  clipSend: "Put into the VM's clipboard",
  clipType: "Type it",
  clipCopy: "Copy",
  sent: "Sent.",
  typed: "Typed.",
  copied: "Copied.",
  notCopied: "The browser does not allow it: select the text and copy it yourself.",
  untypable: "Some characters are on no keyboard and were left out.",
  came: "The VM has put text into its clipboard.",
  connecting: "Connecting …",
  reconnecting: "Connection lost. Trying again …",
  open: "Connected",
  viewing: "Connected, only to look at",
  recorded: "recorded",
  closed: "Not connected",
  hint: "Ctrl+Alt+Shift leaves the VM's screen for the buttons above; Esc goes back.",
  hintEnter: "Tab reaches the buttons; Esc, or a click, gives your keys to the VM.",
  again: "Connect again",
  mayTryAgain: "You can connect again from here.",
  goBack: "Open the console again where you found it.",
  noTicket: "This address opens nothing",
  noTicketWhat: "The ticket in it is used up, or was never there. Open the console again where you found it.",
  noAssets: "The page is not complete",
  noAssetsWhat: "Parts of it did not load. Try again; if that does not help, whoever runs this ccfd finds what is missing with “ccfd check”.",
  code: (code) => `Code ${code}`,
  recording: "Recording",
  pick: "Open a file",
  play: "Play",
  pause: "Pause",
  seek: "Moment",
  noRecording: "This is no recording of a console.",
  playHint: "The file is read in this browser and sent nowhere. Pauses are shortened to two seconds.",
};

const ENGLISH_REASONS = {
  1000: "The console was closed",
  1006: "The connection was lost",
  1009: "Too much was sent at once",
  1012: "ccfd is being restarted",
  4401: "This ticket is not known",
  4402: "This ticket has expired",
  4403: "This ticket has been used",
  4404: "The VM was deleted",
  4408: "The connection took too long",
  4409: "The VM is not running",
  4410: "An operator closed the console",
  4411: "Closed, because nothing happened for a long time",
  4415: "The page sent what ccfd does not understand",
  4423: "The serial console is in use elsewhere",
  4429: "Too many are looking already",
  4502: "The VM's screen does not answer",
  4503: "The VM's host does not answer",
  4507: "The session could not be recorded any further",
};

const CHINESE = {
  console: "控制台",
  serial: "串口控制台",
  keyboard: "键盘",
  clipboard: "剪贴板",
  reset: "Ctrl+Alt+Del",
  size: "原始大小",
  full: "全屏",
  tools: "控制台",
  screen: "虚拟机屏幕；按 Ctrl+Alt+Shift 离开",
  close: "关闭",
  clipLabel: "与虚拟机交换的文本",
  clipSend: "放入虚拟机剪贴板",
  clipType: "逐键输入",
  clipCopy: "复制",
  sent: "已发送。",
  typed: "已输入。",
  copied: "已复制。",
  notCopied: "浏览器不允许：请选中文本后自行复制。",
  untypable: "有些字符无法用键盘输入，已略去。",
  came: "虚拟机的剪贴板有了新文本。",
  connecting: "正在连接……",
  reconnecting: "连接中断，正在重试……",
  open: "已连接",
  viewing: "已连接（只能观看）",
  recorded: "正在录制",
  closed: "未连接",
  hint: "按 Ctrl+Alt+Shift 离开虚拟机屏幕，回到上方按钮；按 Esc 返回。",
  hintEnter: "按 Tab 选择按钮；按 Esc 或点击屏幕，键盘即交给虚拟机。",
  again: "重新连接",
  mayTryAgain: "可以在此重新连接。",
  goBack: "请回到原来的页面，重新打开控制台。",
  noTicket: "此地址已无法打开控制台",
  noTicketWhat: "其中的票据已经用过，或根本没有票据。请回到原来的页面，重新打开控制台。",
  noAssets: "页面不完整",
  noAssetsWhat: "有些部分没有载入。请重试；若仍不行，请管理员运行 “ccfd check” 查看缺少什么。",
  code: (code) => `代码 ${code}`,
  recording: "录像",
  pick: "打开文件",
  play: "播放",
  pause: "暂停",
  seek: "时刻",
  noRecording: "这不是控制台录像文件。",
  playHint: "文件只在此浏览器中读取，不会发送到任何地方。停顿缩短为两秒。",
};

const CHINESE_REASONS = {
  1000: "控制台已关闭",
  1006: "连接中断",
  1009: "一次发送的数据过多",
  1012: "ccfd 正在重新启动",
  4401: "票据无效",
  4402: "票据已过期",
  4403: "票据已经用过",
  4404: "虚拟机已删除",
  4408: "连接超时",
  4409: "虚拟机没有运行",
  4410: "管理员关闭了控制台",
  4411: "长时间没有操作，已关闭",
  4415: "页面发送了 ccfd 无法理解的数据",
  4423: "串口控制台正在别处使用",
  4429: "观看的人已经太多",
  4502: "虚拟机屏幕没有响应",
  4503: "虚拟机所在的主机没有响应",
  4507: "无法继续录制会话",
};

const isChinese = (navigator.languages ?? [navigator.language])
  .map((language) => language.toLowerCase().split("-")[0])
  .find((language) => language === "zh" || language === "en") === "zh";

export const language = isChinese ? "zh-CN" : "en";
export const words = isChinese ? CHINESE : ENGLISH;

/** Say why a websocket was closed; `reason` is the server's, for codes that are newer than this. */
export function why(code, reason) {
  const reasons = isChinese ? CHINESE_REASONS : ENGLISH_REASONS;
  return reasons[code] ?? (reason || reasons[1006]);
}

/** Fill in the words of the page's fixed parts. */
export function speak() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = words[element.dataset.word];
  }
  document.getElementById("tools").setAttribute("aria-label", words.tools);
}
