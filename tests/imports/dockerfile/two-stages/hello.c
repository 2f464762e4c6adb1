#include <stdio.h>
int main(int n, char **v) { printf("hello, %s\n", n > 1 ? v[1] : "you"); return 0; }
