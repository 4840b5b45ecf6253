/* Kills the process at its Nth change of a file in one directory. Loaded with LD_PRELOAD.
**
**   CRASH_DIR   directory whose files count; calls on other files pass uncounted
**   CRASH_AT    1-based number of the call before which the process dies
**   CRASH_HALF  "1": of a write, the first half of the bytes is written before the process dies
**
** The calls are those that SQLite's unix VFS changes files with. What a process wrote before its death
** stays in the page cache, so only the death of the application is simulated, not that of the machine.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long calls_left = -1;

/* Says whether the process is to die at this call, which is on `path`. */
static int is_last_call(const char *path){
  const char *dir = getenv("CRASH_DIR");
  const char *at = getenv("CRASH_AT");
  if( dir==0 || at==0 || strncmp(path, dir, strlen(dir))!=0 ) return 0;
  if( calls_left<0 ) calls_left = atol(at);
  return --calls_left==0;
}

static int is_last_call_on(int fd){
  char link[64], path[4096];
  ssize_t n;
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  n = readlink(link, path, sizeof(path)-1);
  if( n<0 ) return 0;
  path[n] = 0;
  return is_last_call(path);
}

static void die(void){ kill(getpid(), SIGKILL); pause(); }

static int dies_half_way(void){
  const char *half = getenv("CRASH_HALF");
  return half!=0 && half[0]=='1';
}

int unlink(const char *path){
  static int (*real)(const char*);
  if( real==0 ) real = dlsym(RTLD_NEXT, "unlink");
  if( is_last_call(path) ) die();
  return real(path);
}

int open64(const char *path, int flags, ...){
  static int (*real)(const char*, int, ...);
  mode_t mode = 0;
  if( real==0 ) real = dlsym(RTLD_NEXT, "open64");
  if( flags & O_CREAT ){
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    if( is_last_call(path) ) die();
  }
  return real(path, flags, mode);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset){
  static ssize_t (*real)(int, const void*, size_t, off64_t);
  if( real==0 ) real = dlsym(RTLD_NEXT, "pwrite64");
  if( is_last_call_on(fd) ){
    if( dies_half_way() ) real(fd, data, size/2, offset);
    die();
  }
  return real(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t size){
  static int (*real)(int, off64_t);
  if( real==0 ) real = dlsym(RTLD_NEXT, "ftruncate64");
  if( is_last_call_on(fd) ) die();
  return real(fd, size);
}

int fdatasync(int fd){
  static int (*real)(int);
  if( real==0 ) real = dlsym(RTLD_NEXT, "fdatasync");
  if( is_last_call_on(fd) ) die();
  return real(fd);
}

int fsync(int fd){
  static int (*real)(int);
  if( real==0 ) real = dlsym(RTLD_NEXT, "fsync");
  if( is_last_call_on(fd) ) die();
  return real(fd);
}
